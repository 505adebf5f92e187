//! What the catalog says about the relations, columns and functions that the SELECTs use.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::plan::ValueKind;
use crate::error::{Context, Error, Result};

/// Everything that the rewriting needs to know about the database; pure data once it is loaded.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) relations: BTreeMap<u32, Relation>,
    /// The columns that some SELECT reads, by table and attribute number.
    pub(super) used: BTreeMap<u32, BTreeSet<i16>>,
}

/// A relation of the application.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) oid: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// `pg_class.relkind`.
    pub(super) kind: String,
    pub(super) persistence: String,
    /// Has children by inheritance (a partitioned table has, too).
    pub(super) inherited: bool,
    /// Live columns in the source's order.
    pub(super) columns: Vec<Attribute>,
    /// Attribute numbers of the primary key, or of the index that is the replica identity. A deferrable primary key
    /// identifies no row in the stream, so it is none.
    pub(super) key: Vec<i16>,
    /// Attribute numbers of columns that are unique alone.
    pub(super) unique: Vec<i16>,
    /// A view's canonical text.
    pub(super) definition: Option<String>,
}

/// A column of a relation.
#[derive(Clone, Debug)]
pub(super) struct Attribute {
    pub(super) number: i16,
    pub(super) name: String,
    pub(super) type_oid: u32,
    pub(super) type_name: String,
    /// The type is PostgreSQL's own.
    pub(super) builtin: bool,
    pub(super) generated: Option<String>,
    pub(super) collation: Option<String>,
}

/// What a view depends on, as `pg_depend` records it.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    /// Relations and their columns; 0 stands for the relation, negative numbers are system columns.
    pub(super) columns: Vec<(u32, i16)>,
    pub(super) functions: Vec<Function>,
    /// Row types of relations, by the relation's name.
    pub(super) row_types: Vec<String>,
}

/// A function that is not PostgreSQL's own.
#[derive(Clone, Debug)]
pub(super) struct Function {
    pub(super) signature: String,
    /// `pg_proc.provolatile`.
    pub(super) volatility: String,
    /// A relation whose row type is an argument's type.
    pub(super) takes_row_of: Option<String>,
}

impl Relation {
    /// `app.posts`, for messages.
    pub(super) fn title(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    pub(super) fn is_view(&self) -> bool {
        self.kind == "v"
    }
}

impl Facts {
    pub(super) fn named(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.relations.values().find(|relation| relation.schema == schema && relation.name == name)
    }

    /// Loads the relations of `dependencies`, and those below views among them; returns what all of that depends on.
    pub(super) async fn load(&mut self, client: &Client, dependencies: Dependencies) -> Result<Dependencies> {
        let mut all = Dependencies::default();
        let mut open = vec![dependencies];
        while let Some(next) = open.pop() {
            for &(oid, number) in &next.columns {
                self.used.entry(oid).or_default().insert(number);
                if let Entry::Vacant(place) = self.relations.entry(oid) {
                    place.insert(relation(client, oid).await?);
                }
            }
            let views: BTreeSet<u32> = next.columns.iter().map(|&(oid, _)| oid).collect();
            for oid in views {
                if self.relations[&oid].is_view() {
                    open.push(dependencies_of(client, oid).await?);
                }
            }
            all.columns.extend(next.columns);
            all.functions.extend(next.functions);
            all.row_types.extend(next.row_types);
        }
        Ok(all)
    }
}

const DEPENDENCIES: &str = "\
SELECT d.refclassid::regclass::text, d.refobjid, d.refobjsubid::int2,
       p.oid::regprocedure::text, p.provolatile::text,
       (SELECT k.relnamespace::regnamespace || '.' || k.relname FROM unnest(p.proargtypes) AS a(type)
          JOIN pg_type t ON t.oid = a.type OR t.typarray = a.type
          JOIN pg_class k ON k.oid = t.typrelid AND k.relkind <> 'c' LIMIT 1),
       (SELECT k.relnamespace::regnamespace || '.' || k.relname FROM pg_type t
          JOIN pg_class k ON k.oid = t.typrelid AND k.relkind <> 'c'
         WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray))
  FROM pg_rewrite r
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.deptype = 'n'
  LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
  LEFT JOIN pg_proc p ON p.oid = CASE WHEN d.refclassid = 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode END
 WHERE r.ev_class = $1 AND NOT (d.refclassid = 'pg_class'::regclass AND d.refobjid = r.ev_class)";

/// What a view depends on. Objects of pg_catalog leave no trace there.
pub(super) async fn dependencies_of(client: &Client, view: u32) -> Result<Dependencies> {
    let mut found = Dependencies::default();
    for row in client.query(DEPENDENCIES, &[&view]).await.context("read what a view depends on")? {
        let class: String = row.get(0);
        if class == "pg_class" {
            found.columns.push((row.get(1), row.get(2)));
        }
        if let Some(signature) = row.get::<_, Option<String>>(3) {
            found.functions.push(Function { signature, volatility: row.get(4), takes_row_of: row.get(5) });
        }
        found.row_types.extend(row.get::<_, Option<String>>(6));
    }
    Ok(found)
}

const RELATION: &str = "\
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
       EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhparent = c.oid),
       CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid, false) END,
       coalesce((SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] FROM pg_index i
                  WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND (CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END)
                  LIMIT 1), '{}'),
       coalesce((SELECT array_agg(i.indkey[0]) FROM pg_index i
                  WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL
                    AND i.indkey[0] > 0), '{}')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";

// A reg… type prints names that need not exist any more when the mirror reads them: kept as text like a foreign type.
const ATTRIBUTES: &str = "\
SELECT a.attnum, a.attname::text, a.atttypid, format_type(a.atttypid, a.atttypmod),
       t.typnamespace = 'pg_catalog'::regnamespace AND t.typname !~ '^_?reg',
       CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
       CASE WHEN a.attcollation <> t.typcollation AND a.attcollation <> 0
            THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END
  FROM pg_attribute a
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN pg_collation co ON co.oid = a.attcollation
  LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

async fn relation(client: &Client, oid: u32) -> Result<Relation> {
    let row = client.query_one(RELATION, &[&oid]).await.context("read a table of the mapping")?;
    let attributes = client.query(ATTRIBUTES, &[&oid]).await.context("read the columns of a table of the mapping")?;
    Ok(Relation {
        oid,
        schema: row.get(0),
        name: row.get(1),
        kind: row.get(2),
        persistence: row.get(3),
        inherited: row.get(4),
        definition: row.get(5),
        key: row.get(6),
        unique: row.get(7),
        columns: attributes
            .iter()
            .map(|row| Attribute {
                number: row.get(0),
                name: row.get(1),
                type_oid: row.get(2),
                type_name: row.get(3),
                builtin: row.get(4),
                generated: row.get(5),
                collation: row.get(6),
            })
            .collect(),
    })
}

/// A column of one of our temporary views.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ViewColumn {
    pub(super) name: String,
    pub(super) type_oid: u32,
    pub(super) type_name: String,
}

/// The columns of a view, in order.
pub(super) async fn view_columns(client: &Client, view: u32) -> Result<Vec<ViewColumn>> {
    let rows = client
        .query(
            "SELECT attname::text, atttypid, format_type(atttypid, atttypmod)
               FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 ORDER BY attnum",
            &[&view],
        )
        .await
        .context("read the columns of a view")?;
    Ok(rows.iter().map(|row| ViewColumn { name: row.get(0), type_oid: row.get(1), type_name: row.get(2) }).collect())
}

const TYPE: &str = "\
SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE 0::oid END,
       CASE WHEN e.typarray = t.oid AND e.typdelim = ',' THEN e.oid ELSE 0::oid END
  FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem WHERE t.oid = $1";

/// How values of a type are written into a body: a domain as its base type, an array by its elements.
pub(super) async fn value_kind(client: &Client, type_oid: u32) -> Result<ValueKind> {
    let mut oid = type_oid;
    let mut dimensions = 0;
    let kind = loop {
        if let Some(kind) = ValueKind::of_builtin(oid) {
            break kind;
        }
        let row = client.query_opt(TYPE, &[&oid]).await.context("read a type")?;
        let row = row.ok_or_else(|| Error::failed(format!("type {oid} does not exist")))?;
        let (base, element): (u32, u32) = (row.get(0), row.get(1));
        if base != 0 {
            oid = base;
        } else if element != 0 {
            oid = element;
            dimensions += 1;
        } else {
            break ValueKind::Text;
        }
    };
    Ok((0..dimensions).fold(kind, |kind, _| ValueKind::Array(Box::new(kind))))
}

/// Those of the functions of pg_catalog that are VOLATILE whatever their arguments.
pub(super) async fn volatile_builtins(client: &Client, names: &[String]) -> Result<Vec<String>> {
    let rows = client
        .query(
            "SELECT proname::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY ($1)
              GROUP BY proname HAVING bool_and(provolatile = 'v')",
            &[&names],
        )
        .await
        .context("read the volatility of functions")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
