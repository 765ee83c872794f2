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

/// `resources | where type in~ ('…', '…') | project column, column | order by id asc`.
///
/// `in~` compares without case; names of columns are case-sensitive (Kusto). Without an order by a unique column, pages
/// may overlap, and a result with dynamic columns only has no pages (azure-docs
/// `governance/resource-graph/concepts/paging-results.md`). Every other query is answered with 400, even if it is valid
/// Kusto, so that no query has one meaning here and another in Azure.
struct Query<'a> {
    types: Vec<&'a str>,
    columns: Vec<&'a str>,
}

impl<'a> Query<'a> {
    /// # Errors
    /// The first token that does not match this form.
    fn parse(text: &'a str) -> Result<Self, &'a str> {
        let mut operators = text.split('|').map(str::trim);
        let mut next = || operators.next().unwrap_or_default();
        let (table, filter, projection, order) = (next(), next(), next(), next());
        let unexpected = |operator: &'a str| operator.split_whitespace().next().unwrap_or("<EOF>");
        if table != "resources" {
            return Err(unexpected(table));
        }
        let types = filter.strip_prefix("where type in~ (").and_then(|list| list.strip_suffix(')'));
        let types = types.ok_or_else(|| unexpected(filter))?.split(',').map(str::trim);
        let types = types.map(|literal| {
            let text = literal.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
            text.filter(|text| !text.contains(['\'', '\\'])).ok_or_else(|| unexpected(literal))
        });
        let columns = projection.strip_prefix("project ").ok_or_else(|| unexpected(projection))?;
        let columns = columns.split(',').map(str::trim);
        let columns =
            columns.map(|column| COLUMNS.contains(&column).then_some(column).ok_or(unexpected(column)));
        let query =
            Self { types: types.collect::<Result<_, _>>()?, columns: columns.collect::<Result<_, _>>()? };
        if order != "order by id asc" {
            return Err(unexpected(order));
        }
        if !query.columns.contains(&"id") {
            return Err("id");
        }
        operators.next().map_or(Ok(query), |rest| Err(unexpected(rest)))
    }

    fn run(&self, mut table: Vec<Value>) -> Vec<Value> {
        table.retain(|row| is_one_of(&self.types, row["type"].as_str().unwrap_or_default()));
        table.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
        let project = |row: Value| -> Value {
            let cells = self.columns.iter().map(|column| ((*column).to_owned(), row[column].clone()));
            cells.collect::<Map<_, _>>().into()
        };
        table.into_iter().map(project).collect()
    }
}

impl Arm {
    /// Answers with one page of the result.
    pub(crate) fn resource_graph(&self, call: &Call) -> Result<Reply, ArmError> {
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
