//! What happened to a mirrored table, as far as its catalog says, and what follows from it. Pure.

use super::{Attribute, Described, Look, Member};
use crate::mapping::layout::{quote, shown};
use crate::mapping::plan::{Column, Table};

/// One thing that differs from what was remembered, or that stands in the application's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Dropped, and nothing has its name.
    Gone,
    /// Another table has the name: dropped and created, or swapped by renaming.
    Replaced {
        by: u32,
    },
    /// The same table under another name or in another schema.
    Renamed {
        to: String,
    },
    /// Its changes do not reach the stream.
    Unpublished,
    /// It was out of the publication for a while.
    Republished,
    /// PostgreSQL refuses the application's UPDATE and DELETE of this member.
    Refuses {
        member: String,
        generated: Option<String>,
    },
    /// The identity works, and is not the one that should be: FULL of ours although the key is back, or another key.
    Identity {
        member: String,
    },
    /// Another primary key.
    Key {
        now: Vec<String>,
    },
    /// Other files: every row may have changed.
    Rewritten {
        member: String,
    },
    /// Partitions, and not all of them, have other files: truncated, which the stream does not say of a partition alone.
    PartitionsRewritten {
        members: Vec<String>,
    },
    /// Partitions came or went.
    Partitions {
        attached: Vec<Member>,
        detached: Vec<String>,
    },
    LabelRenamed {
        from: String,
        to: String,
    },
    LabelAdded {
        label: String,
    },
    ColumnRenamed {
        from: String,
        to: String,
    },
    ColumnGone {
        column: String,
    },
    /// Dropped, and another one has its name.
    ColumnAnew {
        column: String,
    },
    ColumnType {
        column: String,
        from: String,
        to: String,
    },
}

/// What follows from a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Follow {
    /// Only what is remembered changes.
    Remember,
    /// The stream itself says it, at its position.
    Stream,
    /// By `portalhook.mend_identity` or `mend_publication`.
    Mend,
    /// A fresh copy of the table, without events.
    Refresh,
    /// A fresh copy, and events for what differs: the stream did not carry it.
    Compare,
    /// The operator has to say what it means now.
    Operator,
}

impl Difference {
    pub(crate) fn follow(&self) -> Follow {
        match self {
            Self::LabelAdded { .. } | Self::Renamed { .. } => Follow::Remember,
            Self::ColumnRenamed { .. } | Self::ColumnGone { .. } | Self::ColumnType { .. } => Follow::Stream,
            Self::Unpublished | Self::Refuses { .. } | Self::Identity { .. } => Follow::Mend,
            Self::ColumnAnew { .. }
            | Self::Key { .. }
            | Self::Rewritten { .. }
            | Self::Partitions { .. }
            | Self::LabelRenamed { .. } => Follow::Refresh,
            Self::Replaced { .. } | Self::Republished | Self::PartitionsRewritten { .. } => Follow::Compare,
            Self::Gone => Follow::Operator,
        }
    }

    /// One line for people, about the table of this name.
    pub(crate) fn what(&self, table: &Table) -> String {
        let name = table.called();
        match self {
            Self::Gone => format!("{name} was dropped: its mirror stays as it was, and nothing new of it is seen"),
            Self::Replaced { .. } => {
                format!("{name} is another table than before (created anew, or swapped by renaming)")
            }
            Self::Renamed { to } => format!("{name} is called {to} now, and is followed there"),
            Self::Unpublished => format!("{name} is not in the publication: its changes are not seen"),
            Self::Republished => {
                format!("{name} was out of the publication for a while: changes of that time were not seen")
            }
            Self::Refuses { member, generated: Some(column) } => format!(
                "{member} has no primary key, and the generated column {column} forbids REPLICA IDENTITY FULL: PostgreSQL \
                 refuses the application's UPDATE and DELETE while it is published"
            ),
            Self::Refuses { member, generated: None } => format!(
                "{member} has lost its replica identity: PostgreSQL refuses the application's UPDATE and DELETE while it is \
                 published"
            ),
            Self::Identity { member } => format!("{member} has another replica identity than its key needs"),
            Self::Key { now } => format!("{name} has another primary key: ({})", now.join(", ")),
            Self::Rewritten { member } => format!("{member} was rewritten, which may have changed any of its rows"),
            Self::PartitionsRewritten { members } => format!("{} truncated or rewritten", were(members)),
            Self::Partitions { attached, detached } => {
                let attached: Vec<&str> = attached.iter().map(|member| member.name.as_str()).collect();
                let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                let detached: Vec<&str> = detached.iter().map(String::as_str).collect();
                format!("{name} has other partitions: attached {}, detached {}", list(&attached), list(&detached))
            }
            Self::LabelRenamed { from, to } => format!("{name}: the enum value {from} is called {to} now"),
            Self::LabelAdded { label } => format!("{name}: the enum value {label} was added"),
            Self::ColumnRenamed { from, to } => {
                format!("{name}: column {from}, which the mapping reads, is called {to} now")
            }
            Self::ColumnGone { column } => format!("{name}: column {column}, which the mapping reads, was dropped"),
            Self::ColumnAnew { column } => {
                format!("{name}: column {column}, which the mapping reads, is another one now")
            }
            Self::ColumnType { column, from, to } => {
                format!("{name}: column {column} is of type {to} now, and was of {from}")
            }
        }
    }

    /// What to type where it does not mend itself; `publication` is its name.
    pub(crate) fn fix(&self, table: &Table, publication: &str) -> Option<String> {
        let (schema, name) = table.called().split_once('.').unwrap_or_default();
        let name = format!("{}.{}", quote(schema), quote(name));
        match self {
            Self::Unpublished => Some(format!("ALTER PUBLICATION {} ADD TABLE {name}", quote(publication))),
            Self::Replaced { .. } => Some(format!(
                "SELECT portalhook.mend_publication({}), as its owner or a superuser",
                crate::mapping::layout::literal(&name)
            )),
            Self::Refuses { member, generated: Some(_) } => Some(format!("ALTER TABLE {member} ADD PRIMARY KEY (…)")),
            Self::Refuses { member, generated: None } => {
                Some(format!("ALTER TABLE {member} ADD PRIMARY KEY (…), or ALTER TABLE {member} REPLICA IDENTITY FULL"))
            }
            Self::Identity { member } => Some(format!("ALTER TABLE {member} REPLICA IDENTITY DEFAULT")),
            Self::Gone => Some(
                "UPDATE portalhook.mapping SET query = '…' WHERE entity = '…' with a table that is there".to_owned(),
            ),
            Self::ColumnRenamed { from, to } => Some(format!(
                "UPDATE portalhook.mapping SET query = '…' WHERE entity = '…' with {} for {}",
                shown(to),
                shown(from)
            )),
            Self::ColumnGone { .. } => {
                Some("UPDATE portalhook.mapping SET query = '…' WHERE entity = '…' without it".to_owned())
            }
            Self::Renamed { to } => Some(format!(
                "UPDATE portalhook.mapping SET query = '…' WHERE entity = '…' with {to}, before the next setup"
            )),
            _ => None,
        }
    }
}

/// Everything that differs. Where nothing was remembered only what stands in the way is found.
pub(crate) fn differences(table: &Table, look: &Look) -> Vec<Difference> {
    if let Some(by) = look.now.namesake {
        return vec![Difference::Replaced { by }];
    }
    let Some(now) = &look.now.table else { return vec![Difference::Gone] };
    let before =
        look.before.as_ref().filter(|before| before.oid == look.now.oid).and_then(|before| before.table.as_ref());
    let mut found = Vec::new();
    if !now.named {
        found.push(Difference::Renamed { to: format!("{}.{}", shown(&now.schema), shown(&now.name)) });
    }
    standing(table, now, &mut found);
    if let Some(before) = before {
        // Also where it was remembered as it was meanwhile: in no publication.
        if now.published.is_some() && before.published != now.published {
            found.push(Difference::Republished);
        }
        files(before, now, &mut found);
        labels(before, now, &mut found);
        columns(table, before, now, &mut found);
    }
    found
}

/// What has to be so at any time.
fn standing(table: &Table, now: &Described, found: &mut Vec<Difference>) {
    if now.published.is_none() {
        found.push(Difference::Unpublished);
    }
    let key: Vec<&str> = table.key.iter().map(|&place| name_now(&table.columns[place], now)).collect();
    for member in &now.members {
        if member.refuses {
            found.push(Difference::Refuses { member: member.name.clone(), generated: member.generated.clone() });
        } else if !member.key.is_empty() && member.generated.is_none() {
            // By another key than the mirror's the stream must not say which row it means; by the same one it should.
            let is_its_key = member.key == key;
            if member.identity == "d" && !is_its_key || member.identity == "f" && is_its_key && now.made_full {
                found.push(Difference::Identity { member: member.name.clone() });
            }
        }
    }
    if let Some(root) =
        now.members.first().filter(|root| root.identity != "i" && !root.key.is_empty() && root.key != key)
    {
        found.push(Difference::Key { now: root.key.clone() });
    }
}

/// A column of the mirror under the name that it has in the table, which makes no other column of it.
fn name_now<'a>(column: &'a Column, now: &'a Described) -> &'a str {
    let is_it = |one: &&Attribute| column.number != 0 && one.number == column.number;
    now.columns.iter().find(is_it).map_or(&column.name, |one| &one.name)
}

fn files(before: &Described, now: &Described, found: &mut Vec<Difference>) {
    let known = |member: &Member| before.members.iter().find(|old| old.oid == member.oid);
    let attached: Vec<Member> = now.members.iter().filter(|member| known(member).is_none()).cloned().collect();
    let gone = before.members.iter().filter(|old| now.members.iter().all(|member| member.oid != old.oid));
    let detached: Vec<String> = gone.map(|old| old.name.clone()).collect();
    if !attached.is_empty() || !detached.is_empty() {
        found.push(Difference::Partitions { attached, detached });
    }
    let rewritten: Vec<&Member> =
        now.members.iter().filter(|member| known(member).is_some_and(|old| old.storage != member.storage)).collect();
    let stayed = now
        .members
        .iter()
        .any(|member| known(member).is_some_and(|old| old.storage != 0 && old.storage == member.storage));
    if stayed && !rewritten.is_empty() {
        let members = rewritten.iter().map(|member| member.name.clone()).collect();
        found.push(Difference::PartitionsRewritten { members });
    } else {
        found.extend(rewritten.iter().map(|member| Difference::Rewritten { member: member.name.clone() }));
    }
}

fn were(names: &[String]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "was" } else { "were" })
}

fn labels(before: &Described, now: &Described, found: &mut Vec<Difference>) {
    for label in &now.labels {
        match before.labels.iter().find(|old| old.oid == label.oid) {
            Some(old) if old.label != label.label => {
                found.push(Difference::LabelRenamed { from: old.label.clone(), to: label.label.clone() });
            }
            Some(_) => {}
            None => found.push(Difference::LabelAdded { label: label.label.clone() }),
        }
    }
}

fn columns(table: &Table, before: &Described, now: &Described, found: &mut Vec<Difference>) {
    for column in &table.columns {
        let Some(old) = before.columns.iter().find(|old| old.name == column.name) else { continue };
        match now.columns.iter().find(|one| one.number == old.number) {
            Some(one) if one.name != old.name => {
                found.push(Difference::ColumnRenamed { from: old.name.clone(), to: one.name.clone() });
            }
            // Until the plan has followed it.
            Some(one) if one.type_name != column.source_type => found.push(Difference::ColumnType {
                column: column.name.clone(),
                from: column.source_type.clone(),
                to: one.type_name.clone(),
            }),
            Some(_) => {}
            None if now.columns.iter().any(|one| one.name == old.name) => {
                found.push(Difference::ColumnAnew { column: column.name.clone() });
            }
            None => found.push(Difference::ColumnGone { column: column.name.clone() }),
        }
    }
}

#[cfg(test)]
mod tests;
