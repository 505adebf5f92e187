//! The operator's file: `CREATE VIEW portalhook.posts AS SELECT …;` for each entity.

use pg_query::protobuf::{Token, ViewCheckOption, ViewStmt, node::Node as Kind};

use super::check;
use super::plan::Entity;
use super::syntax::{deep, grammar_error, lex};
use crate::error::{Error, Result};

/// Takes the file apart: each entity with the text of its SELECT, in the file's order.
pub(crate) fn split(text: &str) -> Result<Vec<(Entity, String)>> {
    let mut views: Vec<(Entity, String)> = Vec::new();
    for statement in statements(text)? {
        let at = |error: Error| Error::new(error.kind(), format!("line {}: {error}", statement.line));
        let (entity, query) = view(statement.text).map_err(at)?;
        if views.iter().any(|(other, _)| *other == entity) {
            return Err(at(Error::usage(format!("a second CREATE VIEW portalhook.{}", entity.name()))));
        }
        views.push((entity, query));
    }
    check::entities(views.iter().map(|(entity, _)| *entity))?;
    Ok(views)
}

struct Statement<'a> {
    text: &'a str,
    /// Of the whole file, from 1.
    line: usize,
}

/// The file's statements, without what stands before their first word.
fn statements(text: &str) -> Result<Vec<Statement<'_>>> {
    let tokens = lex(text)?;
    let mut statements = Vec::new();
    let mut start = None;
    for token in &tokens {
        if token.token == Token::Ascii59 && token.depth == 0 {
            if let Some(start) = start.take() {
                statements.push((start, token.span.start));
            }
        } else if start.is_none() {
            start = Some(token.span.start);
        }
    }
    statements.extend(start.map(|start| (start, text.len())));
    Ok(statements
        .into_iter()
        .map(|(start, end)| Statement {
            text: text[start..end].trim_end(),
            line: text[..start].matches('\n').count() + 1,
        })
        .collect())
}

fn view(text: &str) -> Result<(Entity, String)> {
    deep(|| view_here(text))
}

fn view_here(text: &str) -> Result<(Entity, String)> {
    let parsed = pg_query::parse(text, 0).map_err(|error| grammar_error(&error))?;
    let node = parsed.protobuf.stmts.into_iter().next().and_then(|statement| statement.stmt?.node);
    let Some(Kind::ViewStmt(view)) = node else {
        let words: Vec<&str> = text.split_whitespace().take(3).collect();
        return Err(Error::usage(format!("{} … is not a CREATE VIEW; {}", words.join(" "), allowed())));
    };
    let entity = entity(&view)?;
    let name = format!("portalhook.{}", entity.name());
    if !view.aliases.is_empty() {
        return Err(Error::usage(format!("{name} has a list of columns; name them in its SELECT with AS")));
    }
    if !view.options.is_empty() {
        return Err(Error::usage(format!("{name} has WITH options, which mean nothing here; leave them out")));
    }
    if view.with_check_option() != ViewCheckOption::NoCheckOption {
        return Err(Error::usage(format!("{name} has WITH CHECK OPTION, which means nothing here; leave it out")));
    }
    let tokens = lex(text)?;
    let word = tokens
        .iter()
        .find(|token| token.token == Token::As && token.depth == 0)
        .ok_or_else(|| Error::usage(format!("{name} has no AS")))?;
    Ok((entity, text[word.span.end..].trim().to_owned()))
}

fn entity(view: &ViewStmt) -> Result<Entity> {
    let range = view.view.clone().unwrap_or_default();
    let name = if range.schemaname.is_empty() {
        range.relname.clone()
    } else {
        format!("{}.{}", range.schemaname, range.relname)
    };
    if range.relpersistence == "t" {
        return Err(Error::usage(format!("{name} is TEMPORARY; leave that out")));
    }
    if range.schemaname != "portalhook" {
        return Err(Error::usage(format!("view {name} is not in schema portalhook; {}", allowed())));
    }
    Entity::ALL
        .into_iter()
        .find(|entity| entity.name() == range.relname)
        .ok_or_else(|| Error::usage(format!("there is no view {name}; {}", allowed())))
}

fn allowed() -> String {
    let names: Vec<String> = Entity::ALL.into_iter().map(|entity| format!("portalhook.{}", entity.name())).collect();
    format!("allowed is CREATE VIEW with the names {}", names.join(", "))
}
