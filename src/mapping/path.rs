//! The way from a SELECT's outside to its base: the first table in FROM, at the left end of its joins, maybe inside a
//! subquery, a CTE or (by `rewrite`) a view.

use pg_query::protobuf::{Alias, CommonTableExpr, JoinExpr, JoinType, SelectStmt, SetOperation, Token};
use pg_query::protobuf::{Node, a_const::Val as Constant, node::Node as Kind};
use serde_json::Value;

use super::syntax::{Span, Statement, fields, json, walk};
use crate::error::{Error, Result};

/// The way to the base within one text, outermost SELECT first. Empty: a SELECT without FROM.
#[derive(Debug, Default)]
pub(super) struct Path {
    pub(super) levels: Vec<Level>,
    /// Where the base's name starts: it identifies the reference.
    pub(super) base: usize,
}

/// One SELECT on the way to the base.
#[derive(Debug)]
pub(super) struct Level {
    /// Where the target list starts.
    pub(super) target_list: usize,
    /// What of the WHERE clause says whether the base row is live: all of it, or where it is needed to join
    /// (`FROM a, b WHERE …`, CROSS JOIN) those of its conditions that read the base row alone.
    pub(super) conditions: Vec<Span>,
    /// All of the WHERE clause is meant, its word included.
    pub(super) whole_condition: bool,
    /// What qualifies the columns of the level's first item in FROM.
    pub(super) qualifier: String,
    /// The qualifier is the alias of a join: its columns may be any joined table's.
    joined: bool,
    /// The first item is the only one: its columns may be named without qualifier.
    single: bool,
    /// Behind the parentheses that open lists of column aliases of the level's first item, where that is a subquery or a
    /// CTE: the columns that we add need names there.
    pub(super) alias_lists: Vec<usize>,
    /// Outputs and their expressions.
    targets: Vec<(String, Value)>,
    filter: Option<Value>,
}

/// The columns of the base table, by the names that they have there, out of which a value is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) columns: Vec<String>,
    /// The value is the one column as it is.
    pub(super) unchanged: bool,
}

impl Path {
    /// Finds the way, or says why this SELECT has no base row.
    pub(super) fn find(statement: &Statement) -> Result<Self> {
        let tree = &statement.tree;
        if tree.from_clause.is_empty() && tree.values_lists.is_empty() && tree.op() == SetOperation::SetopNone {
            refuse(tree)?;
            return Ok(Self::default());
        }
        let mut finder = Finder { statement, ctes: Vec::new(), levels: Vec::new(), base: 0 };
        finder.select(tree)?;
        finder.levels.reverse();
        let path = Self { levels: finder.levels, base: finder.base };
        path.refuse_whole_rows(statement)?;
        Ok(path)
    }

    /// Where the output `name` comes from, or why that is not the base row alone.
    pub(super) fn origin(&self, name: &str) -> Result<Origin, String> {
        origin(&self.levels, name)
    }

    /// Whether a WHERE looks at anything but the base row.
    pub(super) fn filters_by_joined_rows(&self) -> bool {
        self.levels.iter().any(|level| level.filter.as_ref().is_some_and(|filter| level.base_columns(filter).is_err()))
    }

    /// `x.*` as a value, where x is a subquery on the way, would get the key columns that we add.
    fn refuse_whole_rows(&self, statement: &Statement) -> Result<()> {
        let Some((_, outer)) = self.levels.split_last() else { return Ok(()) };
        let mut found = None;
        statement.walk(&mut |kind, node| {
            if kind == "ColumnRef"
                && let [name, star] = &fields(node)[..]
                && star == "*"
                && outer.iter().any(|level| level.qualifier == *name)
            {
                found = Some(name.clone());
            }
        });
        match found {
            Some(name) => Err(Error::usage(format!("it uses {name} as a whole row; name the columns that you need"))),
            None => Ok(()),
        }
    }
}

fn origin(levels: &[Level], name: &str) -> Result<Origin, String> {
    let Some((level, inner)) = levels.split_first() else { return Ok(Origin::default()) };
    let Some((_, expression)) = level.targets.iter().find(|(target, _)| target == name) else {
        return Err(format!("there is no column {name} to follow"));
    };
    let columns = level.base_columns(expression)?;
    let unchanged = expression.get("node").is_some_and(|node| node.get("ColumnRef").is_some());
    if inner.is_empty() {
        return Ok(Origin { columns, unchanged });
    }
    if !level.alias_lists.is_empty() {
        return Err("its columns are renamed on the way; name them with AS".to_owned());
    }
    let mut found = Origin { columns: Vec::new(), unchanged };
    for column in &columns {
        let below = origin(inner, column)?;
        found.columns.extend(below.columns);
        found.unchanged &= below.unchanged;
    }
    Ok(found)
}

impl Level {
    /// The columns of the first item that an expression reads, or the reason why it does not read that alone.
    fn base_columns(&self, expression: &Value) -> Result<Vec<String>, String> {
        let mut columns = Vec::new();
        let mut reason = None;
        walk(expression, true, &mut |kind, node| match kind {
            "SubLink" => {
                reason.get_or_insert_with(|| "it looks into a subquery".to_owned());
            }
            "ColumnRef" => match &fields(node)[..] {
                [column] if self.single => columns.push(column.clone()),
                [qualifier, column] if *qualifier == self.qualifier && !self.joined => columns.push(column.clone()),
                other => {
                    reason.get_or_insert_with(|| format!("it reads {}", other.join(".")));
                }
            },
            _ => {}
        });
        reason.map_or(Ok(columns), Err)
    }
}

/// Finds levels from the inside out: a subquery's place in the text is known from what it holds.
struct Finder<'a> {
    statement: &'a Statement,
    ctes: Vec<&'a CommonTableExpr>,
    levels: Vec<Level>,
    base: usize,
}

impl<'a> Finder<'a> {
    /// Adds the levels of `select`; returns the index of its first token (WITH or SELECT).
    fn select(&mut self, select: &'a SelectStmt) -> Result<usize> {
        refuse(select)?;
        if let Some(with) = &select.with_clause {
            self.ctes.extend(with.ctes.iter().filter_map(|node| match &node.node {
                Some(Kind::CommonTableExpr(cte)) => Some(&**cte),
                _ => None,
            }));
        }
        let Some(first) = select.from_clause.first() else {
            return Err(Error::usage("its first item in FROM is a subquery without a table; put the table first"));
        };
        let item = leftmost(first)?;
        let (start, qualifier, alias_lists) = match item.leaf {
            Some(Kind::RangeVar(range)) => {
                let start = self.statement.token_at(usize::try_from(range.location).unwrap_or(0))?;
                let alias = range.alias.as_ref().map_or(&range.relname, |alias| &alias.aliasname);
                let lists = if range.schemaname.is_empty() {
                    self.cte(&range.relname, start, range.alias.as_ref())?
                } else {
                    self.base = self.statement.tokens[start].span.start;
                    Vec::new()
                };
                (start, alias.clone(), lists)
            }
            Some(Kind::RangeSubselect(range)) => {
                let Some(Kind::SelectStmt(inner)) = range.subquery.as_ref().and_then(|node| node.node.as_ref()) else {
                    return Err(self.statement.lost("a subquery"));
                };
                let open = self.select(inner)?.checked_sub(1).ok_or_else(|| self.statement.lost("a parenthesis"))?;
                let alias = range.alias.as_ref();
                let close = self.statement.closing(open).ok_or_else(|| self.statement.lost("a parenthesis"))?;
                let lists = self.alias_list(close, alias)?;
                (open, alias.map(|alias| alias.aliasname.clone()).unwrap_or_default(), lists)
            }
            Some(Kind::RangeTableSample(_)) => {
                return Err(Error::usage("its base table has TABLESAMPLE: which rows that takes is chance"));
            }
            Some(Kind::RangeFunction(_) | Kind::RangeTableFunc(_) | Kind::JsonTable(_)) => {
                return Err(Error::usage("its base (the first item in FROM) is a function; put a table first"));
            }
            _ => return Err(Error::usage("its base (the first item in FROM) is not a table; put a table first")),
        };
        let level = self.level(select, start, item.alias.map_or(qualifier, |alias| alias.aliasname.clone()))?;
        let first = level.1;
        let single = item.single && select.from_clause.len() == 1;
        let mut level = Level { alias_lists, joined: item.alias.is_some(), single, ..level.0 };
        if item.crossed || select.from_clause.len() > 1 {
            level.whole_condition = false;
            level.conditions = level.conditions.iter().flat_map(|span| self.of_the_base(&level, *span)).collect();
        }
        self.levels.push(level);
        Ok(first)
    }

    /// Those of the conditions in a WHERE clause, joined by AND, that read the base row alone.
    fn of_the_base(&self, level: &Level, clause: Span) -> Vec<Span> {
        let tokens = &self.statement.tokens;
        let Ok(word) = self.statement.token_at(clause.start) else { return Vec::new() };
        let last = tokens.iter().rposition(|token| token.span.end <= clause.end).unwrap_or(word);
        let (mut first, mut end) = (word + 1, last + 1);
        // PostgreSQL prints all of them in one pair of parentheses.
        let opens = |index: usize| tokens[index].token == Token::Ascii40;
        while first < end && opens(first) && self.statement.closing(first) == Some(end - 1) {
            (first, end) = (first + 1, end - 1);
        }
        let Some(depth) = tokens.get(first).map(|token| token.depth) else { return Vec::new() };
        let at = |index: usize, token: Token| tokens[index].depth == depth && tokens[index].token == token;
        if (first..end).any(|index| at(index, Token::Or) || at(index, Token::Between)) {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut start = first;
        for stop in (first..end).filter(|&index| at(index, Token::And)).chain([end]) {
            if start < stop {
                let span = Span { start: tokens[start].span.start, end: tokens[stop - 1].span.end };
                found.extend(self.reads_base_alone(level, span).then_some(span));
            }
            start = stop + 1;
        }
        found
    }

    fn reads_base_alone(&self, level: &Level, span: Span) -> bool {
        let text = format!("SELECT {}", &self.statement.text[span.start..span.end]);
        let parsed = Statement::parse(&text).ok();
        let target = parsed.as_ref().and_then(|statement| statement.tree.target_list.first());
        target.and_then(|target| json(target).ok()).is_some_and(|target| level.base_columns(&target).is_ok())
    }

    /// What the text around the first item in FROM says; also the index of the SELECT's first token.
    fn level(&self, select: &SelectStmt, start: usize, qualifier: String) -> Result<(Level, usize)> {
        let tokens = &self.statement.tokens;
        let from = (0..start)
            .rev()
            .find(|&index| !matches!(tokens[index].token, Token::Ascii40 | Token::Only | Token::LateralP))
            .filter(|&index| tokens[index].token == Token::From)
            .ok_or_else(|| self.statement.lost("FROM"))?;
        let depth = tokens[from].depth;
        let word = (0..from)
            .rev()
            .find(|&index| tokens[index].token == Token::Select && tokens[index].depth == depth)
            .ok_or_else(|| self.statement.lost("SELECT"))?;
        let end = (from..tokens.len()).find(|&index| tokens[index].depth < depth || is_closing(tokens, index, depth));
        let end = end.unwrap_or(tokens.len());
        let place = (from..end).find(|&index| tokens[index].depth == depth && tokens[index].token == Token::Where);
        let condition = place.map(|place| {
            let after = (place..end).find(|&index| tokens[index].depth == depth && ends_where(tokens[index].token));
            Span { start: tokens[place].span.start, end: tokens[after.unwrap_or(end) - 1].span.end }
        });
        let mut targets = Vec::new();
        for node in &select.target_list {
            let Some(Kind::ResTarget(target)) = &node.node else { continue };
            let Some(value) = &target.val else { continue };
            let value = json(&**value)?;
            let mut name = target.name.clone();
            if name.is_empty()
                && let Some(column) = value.get("node").and_then(|node| node.get("ColumnRef"))
            {
                name = fields(column).pop().unwrap_or_default();
            }
            targets.push((name, value));
        }
        let filter = select.where_clause.as_ref().map(|clause| json(&**clause)).transpose()?;
        let first = match &select.with_clause {
            Some(with) => self.statement.token_at(usize::try_from(with.location).unwrap_or(0))?,
            None => word,
        };
        let level = Level {
            target_list: tokens[word].span.end,
            conditions: condition.into_iter().collect(),
            whole_condition: true,
            qualifier,
            joined: false,
            single: false,
            alias_lists: Vec::new(),
            targets,
            filter,
        };
        Ok((level, first))
    }

    /// Goes into a CTE that is the first item in FROM; returns where its columns are renamed.
    fn cte(&mut self, name: &str, start: usize, alias: Option<&'a Alias>) -> Result<Vec<usize>> {
        let Some(cte) = self.ctes.iter().copied().find(|cte| cte.ctename == name) else {
            return Err(Error::usage(format!("its base is pg_catalog.{name}, which is no table of an application")));
        };
        let uses = self.statement.references()?;
        let uses = uses.iter().filter(|other| other.name.schema.is_none() && other.name.name == name).count();
        if uses != 1 {
            return Err(Error::usage(format!("its base is the CTE {name}, which it uses {uses} times; use the table")));
        }
        let Some(Kind::SelectStmt(inner)) = cte.ctequery.as_ref().and_then(|node| node.node.as_ref()) else {
            return Err(Error::usage(format!("its base is the CTE {name}, which is not a SELECT")));
        };
        self.select(inner)?;
        let mut lists = self.alias_list(start, alias)?;
        if !cte.aliascolnames.is_empty() {
            let word = self.statement.token_at(usize::try_from(cte.location).unwrap_or(0))?;
            lists.push(self.statement.tokens[word + 1].span.end);
        }
        Ok(lists)
    }

    /// Where the list of column aliases of the item that ends with token `last` begins.
    fn alias_list(&self, last: usize, alias: Option<&Alias>) -> Result<Vec<usize>> {
        if alias.is_none_or(|alias| alias.colnames.is_empty()) {
            return Ok(Vec::new());
        }
        let tokens = &self.statement.tokens;
        let open = (last + 1..tokens.len()).find(|&index| tokens[index].token == Token::Ascii40);
        let open = open.ok_or_else(|| self.statement.lost("a list of column aliases"))?;
        Ok(vec![tokens[open].span.end])
    }
}

/// The left end of a tree of joins.
struct Leftmost<'a> {
    leaf: Option<&'a Kind>,
    /// The outermost alias of a join above it: it hides the item's own.
    alias: Option<&'a Alias>,
    /// Something is joined without a condition.
    crossed: bool,
    single: bool,
}

fn leftmost(node: &Node) -> Result<Leftmost<'_>> {
    let mut found = Leftmost { leaf: node.node.as_ref(), alias: None, crossed: false, single: true };
    while let Some(Kind::JoinExpr(join)) = found.leaf {
        let JoinExpr { larg, using_clause, quals, alias, .. } = &**join;
        match join.jointype() {
            JoinType::JoinInner | JoinType::JoinLeft => {}
            _ => {
                return Err(Error::usage(
                    "its base table is the left side of a RIGHT or FULL JOIN, which makes rows without it; use LEFT JOIN",
                ));
            }
        }
        if alias.as_ref().is_some_and(|alias| !alias.colnames.is_empty()) {
            return Err(Error::usage("it renames the columns of a join; rename them in the SELECT with AS"));
        }
        found.alias = found.alias.or(alias.as_ref());
        found.crossed |= using_clause.is_empty() && quals.as_ref().is_none_or(|quals| joins_all(join, quals));
        found.single = false;
        found.leaf = larg.as_ref().and_then(|node| node.node.as_ref());
    }
    Ok(found)
}

/// `ON true`: what belongs together is said elsewhere. A LATERAL subquery says it itself.
fn joins_all(join: &JoinExpr, quals: &Node) -> bool {
    let is_true = matches!(
        &quals.node,
        Some(Kind::AConst(constant)) if matches!(&constant.val, Some(Constant::Boolval(value)) if value.boolval)
    );
    let says_itself = matches!(
        join.rarg.as_ref().and_then(|node| node.node.as_ref()),
        Some(Kind::RangeSubselect(range)) if range.lateral
    );
    is_true && !says_itself
}

/// Refuses what makes rows out of several base rows, or looks at other base rows than its own.
fn refuse(select: &SelectStmt) -> Result<()> {
    let reason = if select.op() != SetOperation::SetopNone {
        "it is a UNION, INTERSECT or EXCEPT; use one table with CASE, or a table that holds both"
    } else if !select.values_lists.is_empty() {
        "it is VALUES; write a constant as SELECT … AS …"
    } else if !select.distinct_clause.is_empty() {
        "it has DISTINCT; a row of the view must be a row of the base table"
    } else if !select.group_clause.is_empty() || select.having_clause.is_some() {
        "it has GROUP BY or HAVING; aggregate in a subquery: (SELECT count(*) FROM … WHERE …)"
    } else if !select.window_clause.is_empty() || has_window(select)? {
        "it has a window function, which looks at other rows of the base table; use a subquery"
    } else if select.limit_count.is_some() || select.limit_offset.is_some() {
        "it has LIMIT or OFFSET; say in WHERE which rows count"
    } else {
        return Ok(());
    };
    Err(Error::usage(reason))
}

fn has_window(select: &SelectStmt) -> Result<bool> {
    let mut found = false;
    for target in &select.target_list {
        walk(&json(target)?, false, &mut |kind, node| {
            // JSON_ARRAYAGG and JSON_OBJECTAGG are calls of another kind.
            let call = if kind == "FuncCall" { Some(node) } else { node.get("constructor") };
            found |= call.and_then(|call| call.get("over")).is_some_and(|over| !over.is_null());
        });
    }
    Ok(found)
}

fn is_closing(tokens: &[super::syntax::Lexeme], index: usize, depth: usize) -> bool {
    depth > 0 && tokens[index].depth == depth - 1 && tokens[index].token == Token::Ascii41
}

fn ends_where(token: Token) -> bool {
    matches!(
        token,
        Token::GroupP
            | Token::Having
            | Token::Window
            | Token::Order
            | Token::Limit
            | Token::Offset
            | Token::Fetch
            | Token::For
    )
}
