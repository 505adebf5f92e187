//! A SELECT as PostgreSQL prints it, parsed by PostgreSQL's grammar: what stands where, in bytes.
//!
//! Nothing is printed back from the tree: it only says where to cut the text that the server itself wrote.

use pg_query::protobuf::{self, SelectStmt, Token, node::Node as Kind};
use serde_json::Value;

use crate::error::{Error, Result};

/// The newest PostgreSQL whose grammar `pg_query` knows.
pub(crate) const GRAMMAR: u32 = 18;

/// A place of the text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A token and how many parentheses and brackets are open before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) span: Span,
    pub(super) depth: usize,
}

/// One SELECT statement: its text, tokens and tree.
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) tokens: Vec<Lexeme>,
    pub(super) tree: SelectStmt,
    /// The whole tree as JSON: the one way to visit every node, also those that typed walkers forget.
    json: Value,
}

impl Statement {
    /// Parses the text of one SELECT, without or with its semicolon.
    pub(super) fn parse(text: &str) -> Result<Self> {
        deep(|| Self::parse_here(text))
    }

    fn parse_here(text: &str) -> Result<Self> {
        let text = text.trim().trim_end_matches(';').trim_end().to_owned();
        let parsed = pg_query::parse(&text, 0).map_err(|error| grammar_error(&error))?;
        let [raw] = <[protobuf::RawStmt; 1]>::try_from(parsed.protobuf.stmts)
            .map_err(|all| Error::usage(format!("{} statements where one SELECT is expected", all.len())))?;
        let Some(Kind::SelectStmt(tree)) = raw.stmt.and_then(|node| node.node) else {
            return Err(Error::usage("not a SELECT"));
        };
        let json = json(&*tree)?;
        Ok(Self { tokens: lex(&text)?, text, tree: *tree, json })
    }

    /// The SELECT itself as JSON, which `walk` does not visit.
    pub(super) fn root(&self) -> &Value {
        &self.json
    }

    /// Calls `visit` with the kind and the JSON of every node of the statement, at any depth.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(&str, &Value)) {
        walk(&self.json, true, visit);
    }

    /// Every table, view or CTE that the statement names, at any depth.
    pub(super) fn references(&self) -> Result<Vec<Reference>> {
        let mut found = Vec::new();
        self.walk(&mut |kind, node| {
            if kind == "RangeVar" {
                found.push((Name::of(node), node.clone()));
            }
        });
        found.into_iter().map(|(name, node)| self.reference(name, &node)).collect()
    }

    fn reference(&self, name: Name, node: &Value) -> Result<Reference> {
        let location = location(node);
        let first = self.token_at(location)?;
        let last = first + if name.schema.is_some() { 2 } else { 0 };
        let only = first.checked_sub(1).filter(|&index| self.tokens[index].token == Token::Only);
        let span = Span { start: self.tokens[only.unwrap_or(first)].span.start, end: self.tokens[last].span.end };
        let alias = node.get("alias").filter(|alias| !alias.is_null());
        let alias_name = alias.map(|alias| text(alias, "aliasname"));
        let columns: Vec<String> = alias.map(|alias| strings(alias, "colnames")).unwrap_or_default();
        let list = if columns.is_empty() { None } else { Some(self.alias_list(last)?) };
        let sampled = self.after_alias(last, alias.is_some(), list) == Some(Token::Tablesample);
        Ok(Reference { location, only: only.is_some(), span, alias: alias_name, columns, list, sampled, name })
    }

    /// The parenthesised list of column aliases after the alias that follows token `last`.
    fn alias_list(&self, last: usize) -> Result<Span> {
        let open = (last + 1..self.tokens.len())
            .find(|&index| self.tokens[index].token == Token::Ascii40)
            .ok_or_else(|| self.lost("the list of column aliases"))?;
        let close = self.closing(open).ok_or_else(|| self.lost("the end of a list of column aliases"))?;
        Ok(Span { start: self.tokens[open].span.start, end: self.tokens[close].span.end })
    }

    fn after_alias(&self, last: usize, alias: bool, list: Option<Span>) -> Option<Token> {
        let next = match list {
            Some(list) => self.tokens.iter().position(|token| token.span.start >= list.end)?,
            None if alias => {
                let named = self.tokens.get(last + 1)?.token == Token::As;
                last + if named { 3 } else { 2 }
            }
            None => last + 1,
        };
        self.tokens.get(next).map(|token| token.token)
    }

    /// The index of the token that starts at a byte of the text.
    pub(super) fn token_at(&self, location: usize) -> Result<usize> {
        self.tokens
            .binary_search_by_key(&location, |token| token.span.start)
            .map_err(|_| self.lost(&format!("the token at byte {location}")))
    }

    /// The index of the parenthesis that closes the one at `open`.
    pub(super) fn closing(&self, open: usize) -> Option<usize> {
        let depth = self.tokens[open].depth;
        (open + 1..self.tokens.len())
            .find(|&index| self.tokens[index].token == Token::Ascii41 && self.tokens[index].depth == depth)
    }

    pub(super) fn lost(&self, what: &str) -> Error {
        Error::failed(format!("cannot find {what} in what PostgreSQL printed: {}", self.text))
    }
}

/// Does work on a stack that no nesting fills which PostgreSQL's grammar takes: the parser and its tree are recursive, and
/// the stack of whoever asks may be small. Pages of it that are not reached cost nothing.
pub(super) fn deep<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    const STACK: usize = 128 * 1024 * 1024;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| Error::failed(format!("start a thread for the parser: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(Error::failed("the parser failed")))
    })
}

/// A relation's name; without schema it is a CTE or belongs to pg_catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

impl Name {
    fn of(node: &Value) -> Self {
        Self { schema: Some(text(node, "schemaname")).filter(|schema| !schema.is_empty()), name: text(node, "relname") }
    }
}

/// A place where the statement names a relation.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub(super) name: Name,
    /// Where the name starts; what identifies the place.
    pub(super) location: usize,
    /// The name, with ONLY where that precedes it.
    pub(super) span: Span,
    pub(super) only: bool,
    pub(super) sampled: bool,
    pub(super) alias: Option<String>,
    /// The column aliases and where their list stands, parentheses included.
    pub(super) columns: Vec<String>,
    pub(super) list: Option<Span>,
}

impl Reference {
    /// The name by which columns are qualified.
    pub(super) fn correlation(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.name.name)
    }
}

/// Visits nodes: objects in a node's `{"node": {"Kind": {…}}}`, and those whose type the tree leaves to their field.
pub(super) fn walk(value: &Value, nested: bool, visit: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, nested, visit)),
        Value::Object(fields) => {
            if let Some(Value::Object(node)) = fields.get("node")
                && let Some((kind, inner)) = node.iter().next()
            {
                if kind == "SelectStmt" && !nested {
                    return;
                }
                visit(kind, inner);
                return walk(inner, nested, visit);
            }
            fields.values().for_each(|field| walk(field, nested, visit));
        }
        _ => {}
    }
}

/// The JSON of a part of the tree.
pub(super) fn json<T: serde::Serialize>(part: &T) -> Result<Value> {
    serde_json::to_value(part).map_err(|error| Error::failed(format!("show a parse tree as JSON: {error}")))
}

/// The parts of a name: `["p", "*"]` for `p.*`.
pub(super) fn fields(node: &Value) -> Vec<String> {
    strings(node, "fields")
}

/// The strings of a list of nodes; a star is `*`.
pub(super) fn strings(node: &Value, field: &str) -> Vec<String> {
    let Some(Value::Array(items)) = node.get(field) else { return Vec::new() };
    items
        .iter()
        .filter_map(|item| {
            let node = item.get("node")?;
            if node.get("AStar").is_some() {
                return Some("*".to_owned());
            }
            node.get("String")?.get("sval")?.as_str().map(str::to_owned)
        })
        .collect()
}

fn text(node: &Value, field: &str) -> String {
    node.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn location(node: &Value) -> usize {
    node.get("location").and_then(Value::as_u64).and_then(|value| usize::try_from(value).ok()).unwrap_or(0)
}

/// Tokens with their depth. Comments are left out.
pub(super) fn lex(text: &str) -> Result<Vec<Lexeme>> {
    let mut depth = 0usize;
    let mut tokens = Vec::new();
    // pg_query 18.1 reads through a null pointer where there is no token at all.
    if text.trim().is_empty() {
        return Ok(tokens);
    }
    for raw in pg_query::scan_tokens(text).map_err(|error| grammar_error(&error))? {
        let token = Token::try_from(raw.token).unwrap_or(Token::Nul);
        if matches!(token, Token::SqlComment | Token::CComment) {
            continue;
        }
        if matches!(token, Token::Ascii41 | Token::Ascii93) {
            depth = depth.saturating_sub(1);
        }
        let at = |offset: i32| usize::try_from(offset).unwrap_or(0);
        tokens.push(Lexeme { token, span: Span { start: at(raw.start), end: at(raw.end) }, depth });
        if matches!(token, Token::Ascii40 | Token::Ascii91) {
            depth += 1;
        }
    }
    Ok(tokens)
}

/// The parser's refusal in our words.
pub(super) fn grammar_error(error: &pg_query::Error) -> Error {
    match error {
        pg_query::Error::Parse(message) | pg_query::Error::Scan(message) | pg_query::Error::Split(message) => {
            Error::usage(message.clone())
        }
        pg_query::Error::Decode(_) => {
            Error::usage("expressions or joins are nested too deeply (about 40 levels are possible)")
        }
        other => Error::usage(other.to_string()),
    }
}
