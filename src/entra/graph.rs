//! Graph requests: single reads, batches, and the groups that a token sees.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use super::Entra;
use super::classify::{GraphCaller, NOT_FOUND, challenge, classify_graph, is_challenge};
use super::http::{Endpoint, Request, Response, parse_retry_after};
use crate::domain::{Fault, GroupPolicy, GroupRef, Groups, Reason, RequiredGroup, Timestamp};

/// The maximum number of requests in a batch (Microsoft Graph, `concepts/json-batching.md`).
pub(super) const BATCH_LIMIT: usize = 20;

/// Groups are counted up to here.
const COUNT_LIMIT: usize = 1000;

/// Pages may be empty or small and still have a next link; this limits their number.
pub(super) const PAGE_LIMIT: usize = 20;

/// One request of a batch.
pub(super) struct BatchItem {
    pub(super) id: String,
    pub(super) url: String,
}

/// One response of a batch.
pub(super) struct ItemAnswer {
    status: u16,
    retry_after: Option<Duration>,
    challenged: bool,
    body: Value,
}

impl ItemAnswer {
    /// The body of a success; `None` if Graph says that the object does not exist; otherwise the reason of the error. Any other 404 comes
    /// from a replica, a proxy or a wrong URL, and says nothing about the object.
    pub(super) fn found(self, caller: GraphCaller) -> Result<Option<Value>, Fault> {
        match self.status {
            200..300 if self.body.is_object() => Ok(Some(self.body)),
            404 if self.body["error"]["code"] == NOT_FOUND => Ok(None),
            status @ (401 | 403) if self.challenged => Err(challenge(status, caller)),
            status => {
                Err(Fault { retry_after: self.retry_after, ..classify_graph(status, &self.body, caller) })
            }
        }
    }

    /// Whether the tenant, or the service as a whole, asks to wait.
    const fn asks_to_wait(&self) -> bool {
        matches!(self.status, 424 | 429 | 500..)
    }
}

/// Who sends a request, and its deadline.
#[derive(Clone, Copy)]
pub(super) struct GraphRequest<'a> {
    pub(super) token: &'a str,
    pub(super) caller: GraphCaller,
    pub(super) deadline: Instant,
}

/// A monitor must be throttled before the customer's own requests of the same app (Microsoft Graph, `concepts/throttling.md`).
const PRIORITY: (&str, &str) = ("x-ms-throttle-priority", "Low");

/// Percent-encodes a query value. Graph requires `%20`, not `+`.
pub(super) fn encode(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// An OData string literal: apostrophes are doubled.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Graph's codes for an object or a list that does not exist.
const GONE: [&str; 4] = [NOT_FOUND, "ResourceNotFound", "NotFound", "itemNotFound"];

/// A moment in a response. `0001-01-01T00:00:00Z` means "never" (Microsoft Graph, `synchronization-synchronizationstatus.md`).
pub(super) fn moment(value: &Value) -> Option<Timestamp> {
    let time: jiff::Timestamp = value.as_str()?.trim().parse().ok()?;
    let never = time.as_second() <= NEVER;
    (!never).then(|| Timestamp(time.as_millisecond()))
}

/// The end of the first year of the calendar, in seconds since the epoch.
const NEVER: i64 = -62_104_060_800;

fn invalid(detail: &str) -> Fault {
    Fault::new(Reason::InvalidResponse, detail)
}

impl Entra {
    /// A GET below `/v1.0`, or of a next link.
    pub(super) async fn get(&self, request: GraphRequest<'_>, url: &str) -> Result<Value, Fault> {
        graph_body(&self.read(request, url).await?, request.caller)
    }

    /// The same for an object that may not exist: `None` if Graph itself says so. A proxy's 404 says nothing about the object.
    pub(super) async fn find(&self, request: GraphRequest<'_>, url: &str) -> Result<Option<Value>, Fault> {
        let answer = self.read(request, url).await?;
        let says_so = |body: Value| body["error"]["code"].as_str().is_some_and(|code| GONE.contains(&code));
        if answer.status == reqwest::StatusCode::NOT_FOUND && answer.json().is_some_and(says_so) {
            return Ok(None);
        }
        graph_body(&answer, request.caller).map(Some)
    }

    async fn read(&self, request: GraphRequest<'_>, url: &str) -> Result<Response, Fault> {
        let outgoing = Request {
            endpoint: Endpoint::Graph,
            method: Method::GET,
            url,
            headers: vec![PRIORITY],
            bearer: Some(request.token),
            body: None,
            deadline: request.deadline,
        };
        self.http.send(outgoing).await
    }

    /// One `$batch`; the responses by id. `invalid_response` if Graph left out an item.
    pub(super) async fn batch(
        &self,
        request: GraphRequest<'_>,
        items: &[BatchItem],
    ) -> Result<HashMap<String, ItemAnswer>, Fault> {
        let requests: Vec<Value> =
            items.iter().map(|i| json!({"id": i.id, "method": "GET", "url": i.url})).collect();
        let url = format!("{}/v1.0/$batch", self.cloud.graph_url);
        let outgoing = Request {
            endpoint: Endpoint::Graph,
            method: Method::POST,
            url: &url,
            headers: vec![PRIORITY],
            bearer: Some(request.token),
            body: Some(("application/json", json!({ "requests": requests }).to_string().into_bytes())),
            deadline: request.deadline,
        };
        let answer = self.http.send(outgoing).await?;
        // Older documentation describes 424 for the whole batch if items failed; the items contain the
        // reason.
        let body = match answer.json() {
            Some(body) if answer.status.as_u16() == 424 && body["responses"].is_array() => body,
            _ => graph_body(&answer, request.caller)?,
        };
        batch_answers(body, items, answer.date())
    }

    /// A next link, if it stays on the Graph host: the token is sent nowhere else.
    pub(super) fn next_link<'v>(&self, page: &'v Value) -> Result<Option<&'v str>, Fault> {
        let Some(link) = page["@odata.nextLink"].as_str().filter(|link| !link.is_empty()) else {
            return Ok(None);
        };
        let parsed = url::Url::parse(link).ok().zip(url::Url::parse(&self.cloud.graph_url).ok());
        let inside = parsed.is_some_and(|(link, graph)| {
            link.origin() == graph.origin() && link.path().starts_with("/v1.0/")
        });
        if inside { Ok(Some(link)) } else { Err(invalid("a next link points outside Graph")) }
    }

    /// The groups that a token of the integration sees, and the required ones among them. One round trip if a page contains all groups,
    /// otherwise two or more.
    ///
    /// # Errors
    /// The reason of Graph's error.
    pub async fn groups(
        &self,
        token: &str,
        policy: &GroupPolicy,
        deadline: Instant,
    ) -> Result<Groups, Fault> {
        let request = GraphRequest { token, caller: GraphCaller::Own, deadline };
        let mut listing = Listing::of(policy);
        let mut page = self
            .get(request, &format!("{}/v1.0/groups?$select=id,displayName&$top=999", self.cloud.graph_url))
            .await?;
        loop {
            listing.add(&page)?;
            let Some(next) = self.next_link(&page)?.map(str::to_owned) else { break };
            let wanted = listing.to_look_up();
            if wanted.is_empty() {
                if !listing.follows(&next)? {
                    break;
                }
                page = self.get(request, &next).await?;
            } else {
                listing.links.insert(next.clone());
                page = self.look_up(request, &mut listing, &wanted, &next).await?;
            }
        }
        listing.groups()
    }

    /// Looks up required groups, and gets the next page, in as few batches as possible.
    async fn look_up(
        &self,
        request: GraphRequest<'_>,
        listing: &mut Listing<'_>,
        wanted: &[usize],
        next: &str,
    ) -> Result<Value, Fault> {
        let relative = next.split_once("/v1.0").map_or("", |(_, rest)| rest);
        let mut page = Value::Null;
        for (round, chunk) in wanted.chunks(BATCH_LIMIT - 1).enumerate() {
            let groups =
                chunk.iter().filter_map(|index| Some((*index, listing.policy.required.get(*index)?)));
            let mut items: Vec<BatchItem> = groups
                .map(|(index, group)| BatchItem { id: format!("g{index}"), url: group_url(group) })
                .collect();
            if round == 0 {
                items.push(BatchItem { id: "next".to_owned(), url: relative.to_owned() });
            }
            let mut answers = self.batch(request, &items).await?;
            if let Some(answer) = answers.remove("next") {
                page = answer.found(request.caller)?.ok_or_else(|| invalid("the next page is gone"))?;
            }
            for index in chunk {
                let Some(answer) = answers.remove(&format!("g{index}")) else { continue };
                match answer.found(request.caller) {
                    Ok(found) => listing.looked_up(*index, found)?,
                    // It was seen on a page; that others with its name could not be looked up does not change
                    // that.
                    Err(fault) if listing.has_seen(*index) && !fault.asks_to_wait() => {
                        listing.looked_up(*index, None)?;
                    }
                    Err(fault) => return Err(fault),
                }
            }
        }
        Ok(page)
    }
}

/// The responses of a batch by id. The longest pause that an item asks for counts for all that failed with it, because they are requested
/// again together (Microsoft Graph, `concepts/json-batching.md`, "Responses for batched requests that are throttled").
fn batch_answers(
    body: Value,
    items: &[BatchItem],
    date: Option<&str>,
) -> Result<HashMap<String, ItemAnswer>, Fault> {
    let Value::Object(mut body) = body else { return Err(invalid("a batch answer is not an object")) };
    let Some(Value::Array(responses)) = body.remove("responses") else {
        return Err(invalid("a batch answer has no responses"));
    };
    let mut answers: HashMap<String, ItemAnswer> =
        responses.into_iter().take(BATCH_LIMIT).filter_map(|item| item_answer(item, date)).collect();
    let longest = answers.values().filter_map(|a| a.retry_after).max();
    answers.values_mut().filter(|a| a.asks_to_wait()).for_each(|a| a.retry_after = longest);
    if items.iter().all(|i| answers.contains_key(&i.id)) {
        return Ok(answers);
    }
    if answers.values().any(|a| a.status == 429) {
        return Err(Fault {
            retry_after: longest,
            ..Fault::new(Reason::Throttled, "Graph answered a part of a batch and throttled the rest")
        });
    }
    Err(invalid("a batch answer leaves out a request"))
}

fn group_url(group: &GroupRef) -> String {
    match group {
        GroupRef::Id(id) => format!("/groups/{id}?$select=id,displayName"),
        GroupRef::Name(name) => format!(
            "/groups?$select=id,displayName&$filter={}",
            encode(&format!("displayName eq {}", literal(name)))
        ),
    }
}

fn item_answer(mut item: Value, date: Option<&str>) -> Option<(String, ItemAnswer)> {
    let id = as_text(&item["id"])?;
    let status = as_text(&item["status"])?.parse().ok()?;
    let header = |name: &str| {
        let headers = item["headers"].as_object()?;
        headers
            .iter()
            .find(|(written, _)| written.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| as_text(value))
    };
    let own_date = header("date");
    let retry_after =
        header("retry-after").and_then(|value| parse_retry_after(&value, own_date.as_deref().or(date)));
    let challenged = header("www-authenticate").is_some_and(|value| is_challenge(&value));
    Some((id, ItemAnswer { status, retry_after, challenged, body: item["body"].take() }))
}

/// A string, or a number as a string.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The JSON object of a success, or the reason of the error.
fn graph_body(answer: &Response, caller: GraphCaller) -> Result<Value, Fault> {
    let status = answer.status.as_u16();
    let parsed = answer.json();
    if !answer.status.is_success() {
        let mut challenges =
            answer.headers.get_all("www-authenticate").iter().filter_map(|v| v.to_str().ok());
        let fault = if matches!(status, 401 | 403) && challenges.any(is_challenge) {
            challenge(status, caller)
        } else {
            classify_graph(status, &parsed.unwrap_or_default(), caller)
        };
        let request_id = fault.request_id.clone().or_else(|| answer.request_id());
        return Err(Fault { request_id, retry_after: answer.retry_after(), ..fault });
    }
    match parsed {
        Some(value) if value.is_object() => Ok(value),
        _ => Err(Fault {
            request_id: answer.request_id(),
            ..invalid("the response from Graph is not a JSON object")
        }),
    }
}

/// The groups on the pages so far, and the results of look-ups of the required ones.
struct Listing<'p> {
    policy: &'p GroupPolicy,
    count: usize,
    nameless: usize,
    pages: usize,
    ids: HashSet<String>,
    /// Object ids by name, in lower case: `$filter=displayName eq` ignores case, and this does the same.
    names: HashMap<String, Vec<String>>,
    links: HashSet<String>,
    /// Object ids that a look-up found, by index of the required group.
    looked_up: HashMap<usize, Vec<String>>,
}

impl<'p> Listing<'p> {
    fn of(policy: &'p GroupPolicy) -> Self {
        Self {
            policy,
            count: 0,
            nameless: 0,
            pages: 0,
            ids: HashSet::new(),
            names: HashMap::new(),
            links: HashSet::new(),
            looked_up: HashMap::new(),
        }
    }

    fn add(&mut self, page: &Value) -> Result<(), Fault> {
        let groups = page["value"].as_array().ok_or_else(|| invalid("a list of groups has no value"))?;
        self.pages += 1;
        for group in groups {
            let id = group["id"].as_str().ok_or_else(|| invalid("a group has no id"))?;
            // Null properties do not mean a group without a name: the token may see a membership, but not the
            // group (Microsoft Graph, `permissions-overview.md`).
            let Some(name) = group["displayName"].as_str() else {
                self.nameless += 1;
                continue;
            };
            let id = id.to_ascii_lowercase();
            // A page that comes twice counts once.
            if self.ids.insert(id.clone()) {
                self.count += 1;
                self.names.entry(name.to_lowercase()).or_default().push(id);
            }
        }
        Ok(())
    }

    /// Indices of the required groups to look up, once it is known that the first page is not the whole list. Ids that were seen need no
    /// look-up. Names are always looked up: another group with the same name may be on a page that is never read, and it decides whether
    /// the group that was first seen still exists. This costs no round trip, because the next page comes in the same batch.
    fn to_look_up(&self) -> Vec<usize> {
        let missing = |(index, group): (usize, &GroupRef)| {
            let done = self.looked_up.contains_key(&index)
                || (matches!(group, GroupRef::Id(_)) && self.has_seen(index));
            (!done).then_some(index)
        };
        self.policy.required.iter().enumerate().filter_map(missing).collect()
    }

    /// Whether a page showed the required group with this index.
    fn has_seen(&self, index: usize) -> bool {
        self.policy.required.get(index).is_some_and(|group| !self.matching(group).is_empty())
    }

    /// Records the result of a look-up; `None` if Graph says that there is no such group.
    fn looked_up(&mut self, index: usize, found: Option<Value>) -> Result<(), Fault> {
        let id = |object: &Value| {
            object["displayName"]
                .is_string()
                .then(|| object["id"].as_str().map(str::to_ascii_lowercase))
                .flatten()
        };
        let ids = match (found, self.policy.required.get(index)) {
            (Some(body), Some(GroupRef::Id(asked))) => {
                let ids: Vec<String> = id(&body).into_iter().collect();
                if ids.iter().any(|id| !id.eq_ignore_ascii_case(asked)) {
                    return Err(invalid("Graph returned another group than the requested one"));
                }
                ids
            }
            (Some(body), _) => {
                let listed =
                    body["value"].as_array().ok_or_else(|| invalid("a list of groups has no value"))?;
                listed.iter().filter_map(id).collect()
            }
            (None, _) => Vec::new(),
        };
        self.looked_up.insert(index, ids);
        Ok(())
    }

    /// Whether to follow a next link, once the required groups are looked up. A list without an end, because a link repeats or there are
    /// too many small pages, is not an error if the minimum number of groups was seen.
    fn follows(&mut self, next: &str) -> Result<bool, Fault> {
        if self.count >= COUNT_LIMIT {
            return Ok(false);
        }
        let repeated = !self.links.insert(next.to_owned());
        if !repeated && self.pages < PAGE_LIMIT {
            return Ok(true);
        }
        if self.count >= self.policy.minimum as usize {
            return Ok(false);
        }
        Err(invalid(if repeated {
            "the list of groups links back to a page that was read"
        } else {
            "the list of groups has too many pages"
        }))
    }

    /// Object ids of the matching groups on the pages so far. An id matches the group with that id only, whatever the names of others, and
    /// a name never matches an id.
    fn matching(&self, group: &GroupRef) -> Vec<String> {
        match group {
            GroupRef::Id(id) => self.ids.get(&id.to_ascii_lowercase()).cloned().into_iter().collect(),
            GroupRef::Name(name) => self.names.get(&name.to_lowercase()).cloned().unwrap_or_default(),
        }
    }

    fn groups(self) -> Result<Groups, Fault> {
        if self.count == 0 && self.nameless > 0 {
            return Err(Fault::new(
                Reason::GroupAccessDenied,
                "groups are listed without their names: the permission to read them is missing",
            ));
        }
        let required = self.policy.required.iter().enumerate().map(|(index, group)| {
            let mut ids = self.matching(group);
            for id in self.looked_up.get(&index).into_iter().flatten() {
                if !ids.contains(id) {
                    ids.push(id.clone());
                }
            }
            RequiredGroup { name: group.text().to_owned(), ids }
        });
        Ok(Groups {
            visible: u32::try_from(self.count.min(COUNT_LIMIT)).unwrap_or(u32::MAX),
            required: required.collect(),
        })
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
