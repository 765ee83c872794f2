//! The part of the Kusto query language that the emulated Resource Graph understands: the table `resources`, `where`
//! with `=~` and `in~`, `project` with `tostring`, and `order by … asc`.
//!
//! Knows rows and columns; knows nothing of machines. Everything else is refused, valid Kusto or not, so that a query
//! never means something else here than there.

use serde_json::{Map, Value};

/// Columns of the table `resources` that are strings (as in the sample rows that azure-docs `articles/backup/` shows for
/// `az dataprotection backup-instance list-from-resourcegraph`).
const STRINGS: [&str; 9] =
    ["id", "name", "type", "tenantId", "kind", "location", "resourceGroup", "subscriptionId", "managedBy"];
/// Its columns that hold JSON.
const DYNAMICS: [&str; 7] = ["sku", "plan", "properties", "tags", "identity", "zones", "extendedLocation"];

/// A query that has been understood.
#[derive(Debug)]
pub(crate) struct Query {
    stages: Vec<Stage>,
    columns: Vec<Column>,
}

/// The piece of a query that was not understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotUnderstood(pub(crate) String);

/// What stands between two pipes.
#[derive(Debug)]
enum Stage {
    Where(Vec<Condition>),
    Project(Vec<Projection>),
    OrderBy(String),
}

/// `column =~ 'value'`, or `in~` with several values.
#[derive(Debug)]
struct Condition {
    column: String,
    values: Vec<String>,
}

/// `name = path`, or `name = tostring(path)`.
#[derive(Debug)]
struct Projection {
    column: Column,
    path: Vec<String>,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    String,
    Dynamic,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Text(String),
    Symbol(&'a str),
}

impl Query {
    /// Reads a query.
    pub(crate) fn parse(text: &str) -> Result<Self, NotUnderstood> {
        let tokens = tokens(text)?;
        let mut pieces = tokens.split(|token| *token == Token::Symbol("|"));
        match pieces.next() {
            // Table names are written either way in the documentation's samples.
            Some([Token::Word(table)]) if table.eq_ignore_ascii_case("resources") => {}
            other => return Err(not_understood(other.unwrap_or_default())),
        }
        let mut query = Self { stages: Vec::new(), columns: all_columns() };
        for piece in pieces {
            let stage = stage(piece)?;
            query.add(stage)?;
        }
        Ok(query)
    }

    /// Adds a stage whose columns exist.
    fn add(&mut self, mut stage: Stage) -> Result<(), NotUnderstood> {
        match &mut stage {
            Stage::Where(conditions) => {
                conditions.iter().try_for_each(|condition| self.need_string(&condition.column))?;
            }
            Stage::OrderBy(column) => self.need_string(column)?,
            Stage::Project(projections) => {
                projections.iter_mut().try_for_each(|projection| projection.resolve(&self.columns))?;
                self.columns = projections.iter().map(|projection| projection.column.clone()).collect();
            }
        }
        self.stages.push(stage);
        Ok(())
    }

    fn need_string(&self, column: &str) -> Result<(), NotUnderstood> {
        match find(&self.columns, column)? {
            Kind::String => Ok(()),
            Kind::Dynamic => Err(NotUnderstood(column.to_owned())),
        }
    }

    /// Whether the result can be cut into pages: not if all columns are dynamic (azure-docs
    /// `governance/resource-graph/concepts/paging-results.md`).
    pub(crate) fn has_pages(&self) -> bool {
        self.columns.iter().any(|column| column.kind == Kind::String)
    }

    /// Runs over the rows of the table.
    pub(crate) fn run(&self, table: Vec<Value>) -> Vec<Value> {
        self.stages.iter().fold(table, |rows, stage| stage.run(rows))
    }
}

impl Stage {
    fn run(&self, mut rows: Vec<Value>) -> Vec<Value> {
        match self {
            Self::Where(conditions) => {
                rows.retain(|row| conditions.iter().all(|condition| condition.holds(row)));
            }
            Self::OrderBy(column) => rows.sort_by(|a, b| a[column].as_str().cmp(&b[column].as_str())),
            Self::Project(projections) => {
                for row in &mut rows {
                    let cells = projections.iter().map(|p| (p.column.name.clone(), p.cell(row)));
                    *row = cells.collect::<Map<_, _>>().into();
                }
            }
        }
        rows
    }
}

impl Condition {
    fn holds(&self, row: &Value) -> bool {
        let cell = row[&self.column].as_str().unwrap_or_default();
        self.values.iter().any(|value| value.eq_ignore_ascii_case(cell))
    }
}

impl Projection {
    /// Finds the column that the path starts with; a column taken as it is keeps its kind.
    fn resolve(&mut self, columns: &[Column]) -> Result<(), NotUnderstood> {
        let kind = find(columns, &self.path[0])?;
        if self.path.len() == 1 && self.column.kind == Kind::Dynamic {
            self.column.kind = kind;
        }
        let within_string = self.path.len() > 1 && kind == Kind::String;
        if within_string { Err(NotUnderstood(self.path.join("."))) } else { Ok(()) }
    }

    fn cell(&self, row: &Value) -> Value {
        let value = self.path.iter().fold(row, |value, name| &value[name]);
        match (self.column.kind, value) {
            // `tostring(dynamic(null))` is the empty string (Kusto, "tostring()").
            (Kind::String, Value::Null) => "".into(),
            (Kind::String, Value::String(_)) | (Kind::Dynamic, _) => value.clone(),
            (Kind::String, other) => other.to_string().into(),
        }
    }
}

fn all_columns() -> Vec<Column> {
    let of_kind = |kind| move |name: &str| Column { name: name.to_owned(), kind };
    let strings = STRINGS.into_iter().map(of_kind(Kind::String));
    strings.chain(DYNAMICS.into_iter().map(of_kind(Kind::Dynamic))).collect()
}

/// The kind of a column, whose name is compared with case.
fn find(columns: &[Column], name: &str) -> Result<Kind, NotUnderstood> {
    let found = columns.iter().find(|column| column.name == name);
    found.map(|column| column.kind).ok_or_else(|| NotUnderstood(name.to_owned()))
}

fn stage(tokens: &[Token<'_>]) -> Result<Stage, NotUnderstood> {
    match tokens {
        [Token::Word("where"), conditions @ ..] => {
            let conditions = conditions.split(|token| *token == Token::Word("and"));
            Ok(Stage::Where(conditions.map(condition).collect::<Result<_, _>>()?))
        }
        [Token::Word("project"), columns @ ..] => {
            let columns = columns.split(|token| *token == Token::Symbol(","));
            Ok(Stage::Project(columns.map(projection).collect::<Result<_, _>>()?))
        }
        [Token::Word("order"), Token::Word("by"), Token::Word(column), Token::Word("asc")] => {
            Ok(Stage::OrderBy((*column).to_owned()))
        }
        other => Err(not_understood(other)),
    }
}

fn condition(tokens: &[Token<'_>]) -> Result<Condition, NotUnderstood> {
    let (column, values) = match tokens {
        [Token::Word(column), Token::Symbol("=~"), value @ Token::Text(_)] => {
            (column, std::slice::from_ref(value))
        }
        [Token::Word(column), Token::Symbol("in~"), Token::Symbol("("), values @ .., Token::Symbol(")")] => {
            (column, values)
        }
        other => return Err(not_understood(other)),
    };
    let texts = values.split(|token| *token == Token::Symbol(",")).map(|value| match value {
        [Token::Text(text)] => Ok(text.clone()),
        other => Err(not_understood(other)),
    });
    Ok(Condition { column: (*column).to_owned(), values: texts.collect::<Result<_, _>>()? })
}

fn projection(tokens: &[Token<'_>]) -> Result<Projection, NotUnderstood> {
    let (name, expression) = match tokens {
        [Token::Word(name), Token::Symbol("="), expression @ ..] => (Some(*name), expression),
        expression => (None, expression),
    };
    let (kind, path) = match expression {
        [Token::Word("tostring"), Token::Symbol("("), path @ .., Token::Symbol(")")] => (Kind::String, path),
        path => (Kind::Dynamic, path),
    };
    let path = dotted(path)?;
    // An unnamed column is called after its path (azure-rest-api-specs resourcegraph ResourcesPropertiesQuery.json).
    let name = name.map_or_else(|| path.join("_"), str::to_owned);
    Ok(Projection { column: Column { name, kind }, path })
}

fn dotted(tokens: &[Token<'_>]) -> Result<Vec<String>, NotUnderstood> {
    let names = tokens.split(|token| *token == Token::Symbol("."));
    names
        .map(|name| match name {
            [Token::Word(name)] => Ok((*name).to_owned()),
            _ => Err(not_understood(tokens)),
        })
        .collect()
}

/// The first token of what was not understood, as Resource Graph names one token.
fn not_understood(tokens: &[Token<'_>]) -> NotUnderstood {
    NotUnderstood(match tokens.first() {
        Some(Token::Word(token) | Token::Symbol(token)) => (*token).to_owned(),
        Some(Token::Text(text)) => format!("'{text}'"),
        None => "<EOF>".to_owned(),
    })
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, NotUnderstood> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' | '"' => quoted(rest, first)?,
            _ => bare(rest),
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// A word, or a symbol of one or more characters.
fn bare(text: &str) -> (Token<'_>, usize) {
    if let Some(symbol) = ["=~", "in~"].into_iter().find(|symbol| text.starts_with(symbol)) {
        return (Token::Symbol(symbol), symbol.len());
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match text.find(|c| !word(c)).unwrap_or(text.len()) {
        0 => {
            let length = text.chars().next().map_or(0, char::len_utf8);
            (Token::Symbol(&text[..length]), length)
        }
        length => (Token::Word(&text[..length]), length),
    }
}

/// A string literal, in which a backslash escapes a quote or itself (Kusto, "The string data type"), and its length.
fn quoted(text: &str, quote: char) -> Result<(Token<'_>, usize), NotUnderstood> {
    let unfinished = || NotUnderstood(text.to_owned());
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some((_, escaped @ ('\\' | '\'' | '"'))) => value.push(escaped),
                _ => return Err(unfinished()),
            },
            end if end == quote => return Ok((Token::Text(value), index + 1)),
            other => value.push(other),
        }
    }
    Err(unfinished())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> Vec<Value> {
        let row = |name: &str, group: &str, status: &str| {
            json!({
                "id": format!("/{group}/{name}"), "name": name, "type": "microsoft.hybridcompute/machines",
                "resourceGroup": group, "tags": { "env": "test" }, "properties": { "status": status, "count": 2 },
            })
        };
        vec![row("web02", "b", "Connected"), row("Web01", "a", "Disconnected"), row("db01", "a", "Connected")]
    }

    fn run(query: &str) -> Value {
        Query::parse(query).unwrap().run(table()).into()
    }

    #[test]
    fn conditions_are_joined_and_compared_without_case() {
        let query = "Resources\r\n| where type =~ 'Microsoft.HybridCompute/machines' and resourceGroup =~ \"A\"\n\
                     | where name in~ ('WEB01', 'web02') | project name";
        assert_eq!(run(query), json!([{ "name": "Web01" }]));
        assert_eq!(run(r"resources | where name =~ 'it\'s'"), json!([]));
    }

    #[test]
    fn project_selects_renames_and_reaches_into_properties() {
        let query = "resources | where name =~ 'web01' | project n = name, status=tostring(properties.status), \
                     properties.status, tags, tostring(properties.count), missing = tostring(properties.a.b)";
        let row = json!({
            "n": "Web01", "status": "Disconnected", "properties_status": "Disconnected", "tags": { "env": "test" },
            "properties_count": "2", "missing": "",
        });
        assert_eq!(run(query), json!([row]));
    }

    #[test]
    fn order_by_sorts_and_no_project_means_full_rows() {
        let rows = run("resources | order by id asc");
        assert_eq!([&rows[0]["id"], &rows[2]["id"]], ["/a/Web01", "/b/web02"]);
        assert_eq!(rows[1]["properties"]["status"], "Connected");
    }

    #[test]
    fn only_dynamic_columns_have_no_pages() {
        let has_pages = |query: &str| Query::parse(query).unwrap().has_pages();
        assert!(has_pages("resources") && has_pages("resources | project tags, t = tostring(tags.env)"));
        assert!(!has_pages("resources | project tags, properties.status"));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let token = |query: &str| Query::parse(query).unwrap_err().0;
        assert_eq!(token(""), "<EOF>");
        assert_eq!(token("securityresources"), "securityresources");
        assert_eq!(token("where name =~ 'a'"), "where");
        assert_eq!(token("resources |"), "<EOF>");
        assert_eq!(token("resources | limit 1"), "limit");
        assert_eq!(token("resources | order by id"), "order");
        assert_eq!(token("resources | where name == 'a'"), "name");
        assert_eq!(token("resources | where properties =~ 'a'"), "properties");
        assert_eq!(token("resources | where resourcegroup =~ 'a'"), "resourcegroup");
        assert_eq!(token("resources | where name =~ 'a' or name =~ 'b'"), "name");
        assert_eq!(token("resources | where name in~ ('a' 'b')"), "'a'");
        assert_eq!(token("resources | where name =~ 'it''s'"), "name");
        assert_eq!(token("resources | where name =~ 'a"), "'a");
        assert_eq!(token("resources | project id,"), "<EOF>");
        assert_eq!(token("resources | project name | order by id asc"), "id");
        assert_eq!(token("resources | project name.first"), "name.first");
        assert_eq!(token("resources | project a = tolower(name)"), "tolower");
    }
}
