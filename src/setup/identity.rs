//! Tables without a key: the stream has to carry their whole old rows (REPLICA IDENTITY FULL).

use tokio_postgres::Client;

use super::followed;
use super::publication::{patiently, shown};
use super::script::{Script, fix};
use crate::error::{Context as _, Error, Result};
use crate::mapping::plan::{Plan, Table};

/// From this version on, the server refuses UPDATE and DELETE of a published table with identity FULL and a generated column.
const REFUSES_GENERATED: i32 = 180_000;

/// The table and its partitions, whose own identity counts, with those that have another identity than FULL.
const MEMBERS: &str = "\
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relreplident::text,
       (SELECT a.attname::text FROM pg_attribute AS a
         WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped ORDER BY a.attnum LIMIT 1),
       current_setting('server_version_num')::int
  FROM (SELECT $1::oid AS oid UNION SELECT relid::oid FROM pg_partition_tree($1::oid)) AS tree
  JOIN pg_class AS c USING (oid) JOIN pg_namespace AS n ON n.oid = c.relnamespace
 ORDER BY c.oid <> $1, 1";

/// A table of the application, or a partition.
struct Member {
    name: String,
    identity: String,
    generated: Option<String>,
    version: i32,
}

async fn members(client: &Client, table: &Table) -> Result<Vec<Member>> {
    let rows =
        client.query(MEMBERS, &[&table.oid]).await.context(format!("look at the identity of {}", shown(table)))?;
    Ok(rows
        .iter()
        .map(|row| Member { name: row.get(0), identity: row.get(1), generated: row.get(2), version: row.get(3) })
        .collect())
}

/// Refuses what cannot have the identity, or has one that says nothing.
pub(crate) async fn check(client: &Client, table: &Table) -> Result<()> {
    let members = members(client, table).await?;
    members.iter().find_map(|member| refusal(table, member)).map_or(Ok(()), Err)
}

fn refusal(table: &Table, member: &Member) -> Option<Error> {
    let Member { name, identity, generated, version } = member;
    if identity == "n" {
        let identity = if table.key.is_empty() { "FULL" } else { "DEFAULT" };
        return Some(fix(
            format!(
                "{} has REPLICA IDENTITY NOTHING, so its updates do not say which row they are about",
                shown(table)
            ),
            format!("ALTER TABLE {name} REPLICA IDENTITY {identity}"),
        ));
    }
    let column = generated.as_ref().filter(|_| table.key.is_empty() && *version >= REFUSES_GENERATED)?;
    Some(fix(
        format!(
            "{} has no primary key, and the generated column {column}: PostgreSQL {} would refuse its updates once they had \
             to be identified by the whole row (REPLICA IDENTITY FULL)",
            shown(table),
            version / 10_000
        ),
        format!(
            "ALTER TABLE {name} ADD PRIMARY KEY (…), or CREATE UNIQUE INDEX … on NOT NULL columns and \
             ALTER TABLE {name} REPLICA IDENTITY USING INDEX …",
        ),
    ))
}

/// Gives every table without a key the identity FULL, before it is published: without one its updates would fail.
pub(crate) async fn prepare(client: &Client, plan: &Plan, script: &mut Script<'_>) -> Result<()> {
    for table in plan.tables.iter().filter(|table| table.key.is_empty()) {
        let mut changed = 0;
        for member in members(client, table).await?.iter().filter(|member| member.identity != "f") {
            let sql = format!("ALTER TABLE {} REPLICA IDENTITY FULL", member.name);
            let noted = followed::made_full_sql(table);
            patiently(client, &format!("{sql}; {noted}"), "set a replica identity", script).await?;
            changed += 1;
        }
        let done = if changed == 0 { "already FULL" } else { "set to FULL" };
        script.say(
            "identity",
            format!(
                "{}: {done}; it has no primary key, so its rows are matched as a whole (a key would be cheaper)",
                shown(table)
            ),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PostgreSQL 18: "42P10 cannot update table: replica identity must not contain unpublished generated columns".
    #[test]
    fn a_generated_column_needs_a_key_from_18_on() {
        let table = |key: &[usize]| Table {
            oid: 1,
            schema: "public".into(),
            name: "users".into(),
            said: "public.users".into(),
            mirror: "public.users".into(),
            columns: Vec::new(),
            key: key.to_vec(),
            only: false,
        };
        let member = |generated: Option<&str>, version| Member {
            name: "public.users".into(),
            identity: "d".into(),
            generated: generated.map(str::to_owned),
            version,
        };
        for (key, generated, version, refused) in [
            (&[][..], Some("label"), 180_004, true),
            (&[], Some("label"), 170_010, false),
            (&[], None, 180_004, false),
            (&[0], Some("label"), 180_004, false),
        ] {
            let found = refusal(&table(key), &member(generated, version));
            assert_eq!(found.is_some(), refused, "{key:?} {generated:?} {version}");
            if let Some(error) = found {
                assert!(
                    error.to_string().contains("column label") && error.to_string().contains("ADD PRIMARY KEY"),
                    "{error}"
                );
            }
        }
    }
}
