//! Azure Resource Graph: `POST /providers/Microsoft.ResourceGraph/resources` (azure-rest-api-specs resourcegraph
//! 2021-03-01).
//!
//! It accepts one form of query, see [`Query`]. Management groups do not exist, and the only result format is
//! `objectArray`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use ring::digest;
use serde_json::{Map, Value, json};

use crate::arm::error::ArmError;
use crate::arm::reply::Reply;
use crate::arm::{Arm, error, inventory, json_body, require_method};
use crate::encoding::is_one_of;
use crate::machine::MachineState;
use crate::server::Call;

/// Columns of the table `resources` (the sample rows that azure-docs `articles/backup/` shows for
/// `az dataprotection backup-instance list-from-resourcegraph`).
const COLUMNS: [&str; 16] = [
    "id",
    "name",
    "type",
    "tenantId",
    "kind",
    "location",
    "resourceGroup",
    "subscriptionId",
    "managedBy",
    "sku",
    "plan",
    "properties",
    "tags",
    "identity",
    "zones",
    "extendedLocation",
];

/// `$top` without the option, and its maximum (azure-docs `governance/resource-graph/concepts/work-with-data.md` names
/// 100 in its older versions and 1000 now; the specification has the maximum).
const DEFAULT_TOP: usize = 100;
const MAX_TOP: usize = 1000;
/// `$skip` is an int32 (the specification).
const MAX_SKIP: usize = i32::MAX as usize;

/// The longest response, in bytes (microsoft/ARI issue 199).
pub(crate) const MAX_RESPONSE: usize = 16_777_216;

/// `resources | where type in~ ('…', '…') [| where name in~ ('…', …)] [| where resourceGroup =~ '…']
/// | project column, name = tostring(column.path) | order by id asc`.
///
/// `in~` and `=~` compare without case; names of columns are case-sensitive, and a backslash escapes a quote or a backslash
/// of a literal (Kusto). `tostring` of null is the empty text. Without an order by a unique column, pages may overlap, and a
/// result with dynamic columns only has no pages (azure-docs `governance/resource-graph/concepts/paging-results.md`). Every
/// other query is answered with 400, even if it is valid Kusto, so that no query has one meaning here and another in Azure.
struct Query {
    types: Vec<String>,
    names: Option<Vec<String>>,
    group: Option<String>,
    columns: Vec<Column>,
}

/// A column of the result: a column of the table, or a text in one.
struct Column {
    name: String,
    /// Ends in a JSON pointer.
    source: (String, Option<String>),
}

impl Column {
    fn parse(text: &str) -> Result<Self, &str> {
        let (name, source) = text.split_once(" = ").unwrap_or((text, text));
        let path = source.strip_prefix("tostring(").and_then(|path| path.strip_suffix(')'));
        let is_word =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let unexpected = name.split_whitespace().next().unwrap_or("<EOF>");
        let source = match path {
            _ if !is_word(name) => return Err(unexpected),
            None if name == source && COLUMNS.contains(&name) => (name.to_owned(), None),
            Some(path) if path.split('.').all(is_word) => {
                let (column, rest) = path.split_once('.').unwrap_or((path, ""));
                if !COLUMNS.contains(&column) {
                    return Err(column);
                }
                (column.to_owned(), Some(format!("/{}", rest.replace('.', "/"))))
            }
            _ => return Err(unexpected),
        };
        Ok(Self { name: name.to_owned(), source })
    }

    fn cell(&self, row: &Value) -> Value {
        let (column, pointer) = &self.source;
        let Some(pointer) = pointer else { return row[column].clone() };
        match row[column].pointer(pointer) {
            None | Some(Value::Null) => "".into(),
            Some(Value::String(text)) => text.as_str().into(),
            Some(other) => other.to_string().into(),
        }
    }
}

/// Splits a query at its pipes outside of literals.
fn operators(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut in_literal, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            '\\' if in_literal && !escaped => {
                escaped = true;
                continue;
            }
            '\'' if !escaped => in_literal = !in_literal,
            '|' if !in_literal => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    parts.push(text[start..].trim());
    parts
}

/// Parses literals with commas between them.
fn literals(list: &str) -> Result<Vec<String>, &str> {
    let mut all = Vec::new();
    let mut rest = list.trim();
    loop {
        let unexpected = rest.split(',').next().unwrap_or_default().trim();
        let mut chars = rest.strip_prefix('\'').ok_or(unexpected)?.char_indices();
        let mut literal = String::new();
        let end = loop {
            match chars.next().ok_or(unexpected)? {
                (_, '\\') => match chars.next().ok_or(unexpected)? {
                    (_, c @ ('\\' | '\'')) => literal.push(c),
                    _ => return Err(unexpected),
                },
                (at, '\'') => break at + 2,
                (_, c) => literal.push(c),
            }
        };
        all.push(literal);
        let after = rest[end..].trim_start();
        match after.strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None if after.is_empty() => return Ok(all),
            None => return Err(unexpected),
        }
    }
}

/// Parses the literals of `where {column} in~ (…)`.
fn list_filter<'a>(operator: &'a str, column: &str) -> Option<Result<Vec<String>, &'a str>> {
    let list = operator.strip_prefix(&format!("where {column} in~ ("))?.strip_suffix(')')?;
    Some(literals(list))
}

/// Returns the first word of an operator.
fn token(operator: &str) -> &str {
    operator.split_whitespace().next().unwrap_or("<EOF>")
}

impl Query {
    /// # Errors
    /// The first token that does not match this form.
    fn parse(text: &str) -> Result<Self, &str> {
        let mut operators = operators(text).into_iter();
        let mut next = || operators.next().unwrap_or_default();
        let table = next();
        if table != "resources" {
            return Err(token(table));
        }
        let filter = next();
        let types = list_filter(filter, "type").ok_or_else(|| token(filter))??;
        let mut operator = next();
        let names = list_filter(operator, "name").transpose()?;
        if names.is_some() {
            operator = next();
        }
        let group = operator.strip_prefix("where resourceGroup =~ ").map(literals).transpose()?;
        if group.is_some() {
            operator = next();
        }
        let columns = operator.strip_prefix("project ").ok_or_else(|| token(operator))?;
        let columns: Vec<Column> =
            columns.split(',').map(|column| Column::parse(column.trim())).collect::<Result<_, _>>()?;
        let order = next();
        if order != "order by id asc" {
            return Err(token(order));
        }
        if !columns.iter().any(|column| column.name == "id") {
            return Err("id");
        }
        let group = group.and_then(|literals| literals.into_iter().next());
        operators.next().map_or(Ok(Self { types, names, group, columns }), |rest| Err(token(rest)))
    }

    fn run(&self, mut table: Vec<Value>) -> Vec<Value> {
        let is_in = |all: &[String], value: &Value| {
            all.iter().any(|one| one.eq_ignore_ascii_case(value.as_str().unwrap_or_default()))
        };
        table.retain(|row| {
            is_in(&self.types, &row["type"])
                && self.names.as_ref().is_none_or(|names| is_in(names, &row["name"]))
                && self
                    .group
                    .as_ref()
                    .is_none_or(|group| is_in(std::slice::from_ref(group), &row["resourceGroup"]))
        });
        table.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
        let project = |row: Value| -> Value {
            let cells = self.columns.iter().map(|column| (column.name.clone(), column.cell(&row)));
            cells.collect::<Map<_, _>>().into()
        };
        table.into_iter().map(project).collect()
    }
}

impl Arm {
    /// Answers a query of a user whose quota is not used up. Each response has the headers of the quota, and no Retry-After
    /// (azure-docs `governance/resource-graph/concepts/guidance-for-throttled-requests.md`).
    pub(crate) fn within_quota(&self, call: &Call) -> Reply {
        let quota = self.graph_quota.count();
        let reply = if quota.is_exceeded { Err(error::quota_exceeded()) } else { self.resource_graph(call) };
        let (minutes, seconds) = (quota.resets_after / 60, quota.resets_after % 60);
        reply
            .unwrap_or_else(ArmError::reply)
            .header("x-ms-user-quota-remaining", &quota.remaining.to_string())
            .header("x-ms-user-quota-resets-after", &format!("00:{minutes:02}:{seconds:02}"))
    }

    /// Answers with one page of the result.
    fn resource_graph(&self, call: &Call) -> Result<Reply, ArmError> {
        require_method(call, &Method::POST)?;
        let request = json_body(call)?;
        let query = Query::parse(request["query"].as_str().unwrap_or_default());
        let query = query.map_err(error::invalid_query)?;
        let page = Page::requested(&request)?;
        let size = page.size.min(self.page_size.unwrap_or(MAX_TOP));
        let found = query.run(self.table(&self.requested_subscriptions(&request)?));
        let (total, end) = (found.len(), page.start + size);
        let rows: Vec<Value> = found.into_iter().skip(page.start).take(size).collect();
        // A first page has a token and "false" (ResourcesFirstPageQuery.json of the specification).
        let mut body = json!({
            "totalRecords": total, "count": rows.len(), "resultTruncated": "false", "data": rows, "facets": [],
        });
        if end < total {
            body["$skipToken"] = Page { start: end, size: page.size }.token(&request).into();
        }
        let length = body.to_string().len();
        if length > self.graph_max_response {
            return Err(error::response_too_large(length, self.graph_max_response));
        }
        Ok(Reply::ok(&body))
    }

    /// Returns the requested subscriptions, or all, as far as the caller may read them.
    fn requested_subscriptions(&self, request: &Value) -> Result<Vec<&str>, ArmError> {
        let mut subscriptions = self.visible_subscriptions();
        let requested: Option<Vec<&str>> =
            request["subscriptions"].as_array().map(|all| all.iter().filter_map(Value::as_str).collect());
        if let Some(requested) = &requested {
            subscriptions.retain(|known| is_one_of(requested, known));
        }
        let no_subscriptions = || error::no_valid_subscriptions(&requested.unwrap_or_default());
        if subscriptions.is_empty() { Err(no_subscriptions()) } else { Ok(subscriptions) }
    }

    /// Returns the rows of the table `resources` that the role may read.
    fn table(&self, subscriptions: &[&str]) -> Vec<Value> {
        let machines = self.machines.iter().filter(|machine| {
            is_one_of(subscriptions, &machine.facts.subscription) && self.readable(machine)
        });
        machines.map(|machine| row(machine, self.entra.subscription_tenant)).collect()
    }
}

/// A row with all columns. The columns `type` (the specification's examples) and `resourceGroup` are in lower case. The
/// group in the ID is not (tomkerkhove/promitor issue 1492; Azure/azure-dev pull request 119).
fn row(machine: &MachineState, tenant: &str) -> Value {
    let (shown, facts) = (inventory::machine(machine), &machine.facts);
    json!({
        "id": shown["id"], "name": shown["name"], "type": facts.resource_type.to_ascii_lowercase(),
        "tenantId": tenant, "kind": "", "location": shown["location"], "managedBy": "",
        "resourceGroup": facts.resource_group.to_ascii_lowercase(), "subscriptionId": facts.subscription,
        "sku": null, "plan": null, "properties": shown["properties"], "tags": shown["tags"],
        "identity": shown["identity"], "zones": null, "extendedLocation": null,
    })
}

/// The rows of one page.
struct Page {
    start: usize,
    size: usize,
}

impl Page {
    /// Reads the options of a request. `$top` and `$skip` override the token (QueryRequestOptions of the specification).
    fn requested(request: &Value) -> Result<Self, ArmError> {
        let options = &request["options"];
        if !matches!(options["resultFormat"].as_str(), None | Some("objectArray")) {
            return Err(error::invalid_option("Of the result formats there is only 'objectArray'."));
        }
        let continued = match options["$skipToken"].as_str() {
            Some(token) => Self::continued(token, request)?,
            None => Self { start: 0, size: DEFAULT_TOP },
        };
        let size = number(&options["$top"], 1..=MAX_TOP)?.unwrap_or(continued.size);
        let start = number(&options["$skip"], 0..=MAX_SKIP)?.unwrap_or(continued.start);
        Ok(Self { start, size })
    }

    /// Returns the page of a token, which is valid "together with the same query and scopes" only (QueryResponse of the
    /// specification).
    fn continued(token: &str, request: &Value) -> Result<Self, ArmError> {
        let token = STANDARD.decode(token).ok().and_then(|json| serde_json::from_slice::<Value>(&json).ok());
        let token = token.filter(|token| token["Query"] == fingerprint(request)).unwrap_or_default();
        let number = |name: &str| token[name].as_u64().and_then(|number| usize::try_from(number).ok());
        let page = number("RowsToSkip").zip(number("MaxRows")).map(|(start, size)| Self { start, size });
        page.ok_or_else(|| error::invalid_option("The $skipToken is not one of this query and its scopes."))
    }

    /// Opaque to clients. The names of the two numbers are those in tokens of Azure.
    fn token(&self, request: &Value) -> String {
        let token = json!({
            "$id": "1", "MaxRows": self.size, "RowsToSkip": self.start, "Query": fingerprint(request),
        });
        STANDARD.encode(token.to_string())
    }
}

/// A hash of the query and its scopes.
fn fingerprint(request: &Value) -> String {
    let text = json!([request["query"], request["subscriptions"]]).to_string();
    STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// Returns the number in `option`, if it is set.
fn number(option: &Value, range: std::ops::RangeInclusive<usize>) -> Result<Option<usize>, ArmError> {
    if option.is_null() {
        return Ok(None);
    }
    let number = option.as_u64().and_then(|number| usize::try_from(number).ok());
    let outside = || error::invalid_option("$top must be between 1 and 1000, and $skip not negative.");
    number.filter(|number| range.contains(number)).map(Some).ok_or_else(outside)
}
