//! Graph requests: single reads, batches, and the groups that a token sees.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use super::Entra;
use super::classify::{GraphCaller, classify_graph};
use super::http::{Answer, Endpoint, Outgoing, parse_retry_after};
use crate::domain::{Fault, GroupPolicy, GroupRef, Groups, Reason, RequiredGroup};

/// A batch carries at most so many requests (Microsoft Graph, `concepts/json-batching.md`).
pub(super) const BATCH_LIMIT: usize = 20;

/// Groups are counted up to here.
const COUNT_LIMIT: usize = 1000;

/// Pages may be empty and still have a successor; somewhere it ends.
const PAGE_LIMIT: usize = 20;

/// One request of a batch.
pub(super) struct BatchItem {
    pub(super) id: String,
    pub(super) url: String,
}

/// One answer of a batch.
pub(super) struct ItemAnswer {
    status: u16,
    retry_after: Option<Duration>,
    body: Value,
}

impl ItemAnswer {
    /// The body of a success; `None` for 404 of an object; otherwise what the error means.
    pub(super) fn found(self, caller: GraphCaller) -> Result<Option<Value>, Fault> {
        match self.status {
            200..300 if self.body.is_object() => Ok(Some(self.body)),
            404 if self.body["error"]["code"] != "Directory_ObjectNotFound" => Ok(None),
            status => Err(Fault { retry_after: self.retry_after, ..classify_graph(status, &self.body, caller) }),
        }
    }
}

/// Who asks.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) token: &'a str,
    pub(super) caller: GraphCaller,
    pub(super) deadline: Instant,
}

/// A monitor must be throttled before the customer's own traffic of the same app (Microsoft Graph, `concepts/throttling.md`).
const PRIORITY: (&str, &str) = ("x-ms-throttle-priority", "Low");

/// Percent-encodes a query value. Graph wants `%20`, not `+`.
pub(super) fn encode(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// An OData string literal: apostrophes are doubled.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn invalid(detail: &str) -> Fault {
    Fault::new(Reason::InvalidResponse, detail)
}

impl Entra {
    /// One GET below `/v1.0`, or of a next link.
    pub(super) async fn get(&self, asker: Asker<'_>, url: &str) -> Result<Value, Fault> {
        let outgoing = Outgoing {
            endpoint: Endpoint::Graph,
            method: Method::GET,
            url,
            headers: vec![PRIORITY],
            bearer: Some(asker.token),
            body: None,
            deadline: asker.deadline,
        };
        graph_body(&self.door.send(outgoing).await?, asker.caller)
    }

    /// One `$batch`; answers by id. Items that Graph left out are `invalid_response`.
    pub(super) async fn batch(&self, asker: Asker<'_>, items: &[BatchItem]) -> Result<HashMap<String, ItemAnswer>, Fault> {
        let requests: Vec<Value> = items.iter().map(|i| json!({"id": i.id, "method": "GET", "url": i.url})).collect();
        let url = format!("{}/v1.0/$batch", self.hosts.graph);
        let outgoing = Outgoing {
            endpoint: Endpoint::Graph,
            method: Method::POST,
            url: &url,
            headers: vec![PRIORITY],
            bearer: Some(asker.token),
            body: Some(("application/json", json!({ "requests": requests }).to_string().into_bytes())),
            deadline: asker.deadline,
        };
        let body = graph_body(&self.door.send(outgoing).await?, asker.caller)?;
        let Value::Object(mut body) = body else { return Err(invalid("a batch answer is not an object")) };
        let Some(Value::Array(responses)) = body.remove("responses") else { return Err(invalid("a batch answer has no responses")) };
        let answers: HashMap<String, ItemAnswer> = responses.into_iter().take(BATCH_LIMIT).filter_map(item_answer).collect();
        match items.iter().find(|i| !answers.contains_key(&i.id)) {
            Some(_) => Err(invalid("a batch answer leaves out a request")),
            None => Ok(answers),
        }
    }

    /// A next link, if it stays on the Graph host: the token goes nowhere else.
    pub(super) fn next_link<'v>(&self, page: &'v Value) -> Result<Option<&'v str>, Fault> {
        let Some(link) = page["@odata.nextLink"].as_str() else { return Ok(None) };
        let parsed = url::Url::parse(link).ok().zip(url::Url::parse(&self.hosts.graph).ok());
        let inside = parsed.is_some_and(|(link, graph)| link.origin() == graph.origin() && link.path().starts_with("/v1.0/"));
        if inside { Ok(Some(link)) } else { Err(invalid("a next link leads away from Graph")) }
    }

    /// The groups that a token of the integration sees, and the required ones among them. One round trip where a page
    /// holds all groups, two where it does not.
    ///
    /// # Errors
    /// What Graph's refusal means.
    pub async fn groups(&self, token: &str, policy: &GroupPolicy, deadline: Instant) -> Result<Groups, Fault> {
        let asker = Asker { token, caller: GraphCaller::Own, deadline };
        let mut seen = Seen::default();
        let mut page = self.get(asker, &format!("{}/v1.0/groups?$select=id,displayName&$top=999", self.hosts.graph)).await?;
        let mut looked_up: Vec<RequiredGroup> = Vec::new();
        let mut whole = false;
        for _ in 0..PAGE_LIMIT {
            seen.add(&page)?;
            let next = self.next_link(&page)?.map(str::to_owned);
            let missing: Vec<&GroupRef> =
                policy.required.iter().filter(|g| !seen.has(g) && !looked_up.iter().any(|l| l.name == g.text())).collect();
            match next {
                Some(next) if !missing.is_empty() => {
                    let (found, next_page) = self.look_up(asker, &missing, &next).await?;
                    looked_up.extend(found);
                    page = next_page;
                }
                Some(next) if seen.count < COUNT_LIMIT => page = self.get(asker, &next).await?,
                _ => {
                    whole = true;
                    break;
                }
            }
        }
        if !whole {
            return Err(invalid("the list of groups has too many pages"));
        }
        if seen.count == 0 && seen.nameless > 0 {
            return Err(Fault::new(
                Reason::GroupAccessDenied,
                "groups are listed without their names: the permission to read them is missing",
            ));
        }
        let ids = |g: &GroupRef| {
            let seen = seen.matching(g);
            let looked_up = looked_up.iter().filter(|l| seen.is_empty() && l.name == g.text()).flat_map(|l| l.ids.clone());
            seen.iter().cloned().chain(looked_up).collect()
        };
        let required = policy.required.iter().map(|g| RequiredGroup { name: g.text().to_owned(), ids: ids(g) }).collect();
        Ok(Groups { visible: u32::try_from(seen.count.min(COUNT_LIMIT)).unwrap_or(u32::MAX), required })
    }

    /// Asks after groups that were not on the first page, and for the next page, in as few batches as possible.
    async fn look_up(&self, asker: Asker<'_>, missing: &[&GroupRef], next: &str) -> Result<(Vec<RequiredGroup>, Value), Fault> {
        let relative = next.split_once("/v1.0").map_or("", |(_, rest)| rest);
        let mut page = Value::Null;
        let mut found = Vec::new();
        for (round, chunk) in missing.chunks(BATCH_LIMIT - 1).enumerate() {
            let mut items: Vec<BatchItem> =
                chunk.iter().enumerate().map(|(i, group)| BatchItem { id: format!("g{i}"), url: group_url(group) }).collect();
            if round == 0 {
                items.push(BatchItem { id: "next".to_owned(), url: relative.to_owned() });
            }
            let mut answers = self.batch(asker, &items).await?;
            if let Some(answer) = answers.remove("next") {
                page = answer.found(asker.caller)?.ok_or_else(|| invalid("the next page is gone"))?;
            }
            for (index, group) in chunk.iter().enumerate() {
                let Some(answer) = answers.remove(&format!("g{index}")) else { continue };
                let id = |object: &Value| {
                    object["displayName"].is_string().then(|| object["id"].as_str().map(str::to_ascii_lowercase)).flatten()
                };
                let ids = match (answer.found(asker.caller)?, group) {
                    (Some(body), GroupRef::Id(_)) => id(&body).into_iter().collect(),
                    (Some(body), GroupRef::Name(_)) => body["value"].as_array().into_iter().flatten().filter_map(id).collect(),
                    (None, _) => Vec::new(),
                };
                found.push(RequiredGroup { name: group.text().to_owned(), ids });
            }
        }
        Ok((found, page))
    }
}

fn group_url(group: &GroupRef) -> String {
    match group {
        GroupRef::Id(id) => format!("/groups/{id}?$select=id,displayName"),
        GroupRef::Name(name) => format!("/groups?$select=id,displayName&$filter={}", encode(&format!("displayName eq {}", literal(name)))),
    }
}

fn item_answer(item: Value) -> Option<(String, ItemAnswer)> {
    let id = item["id"].as_str()?.to_owned();
    let status = u16::try_from(item["status"].as_u64()?).ok()?;
    let header = item["headers"].as_object().and_then(|h| h.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after")));
    let retry_after =
        header.and_then(|(_, value)| parse_retry_after(&value.as_str().map_or_else(|| value.to_string(), str::to_owned), None));
    let Value::Object(mut item) = item else { return None };
    Some((id, ItemAnswer { status, retry_after, body: item.remove("body").unwrap_or_default() }))
}

/// The JSON object of a success, or what the error means.
fn graph_body(answer: &Answer, caller: GraphCaller) -> Result<Value, Fault> {
    let status = answer.status.as_u16();
    let parsed = serde_json::from_slice::<Value>(&answer.body);
    if !answer.status.is_success() {
        let mut fault = classify_graph(status, &parsed.unwrap_or_default(), caller);
        fault.request_id = fault.request_id.or_else(|| answer.request_id());
        fault.retry_after = answer.retry_after();
        let challenge =
            answer.headers.get_all("www-authenticate").iter().any(|v| v.to_str().is_ok_and(|v| v.contains("insufficient_claims")));
        if status == 401 && challenge && caller == GraphCaller::Own {
            // Continuous access evaluation: the person must sign in again, the token is not damaged (Microsoft, `claims-challenge.md`).
            fault.reason = Reason::InteractionRequired;
        }
        return Err(fault);
    }
    match parsed {
        Ok(value) if value.is_object() => Ok(value),
        _ => Err(Fault { request_id: answer.request_id(), ..invalid("Graph answered with something else than a JSON object") }),
    }
}

/// What the pages showed so far.
#[derive(Default)]
struct Seen {
    count: usize,
    nameless: usize,
    ids: HashSet<String>,
    /// Object ids by name, in lower case.
    names: HashMap<String, Vec<String>>,
}

impl Seen {
    fn add(&mut self, page: &Value) -> Result<(), Fault> {
        let groups = page["value"].as_array().ok_or_else(|| invalid("a list of groups has no value"))?;
        for group in groups {
            let id = group["id"].as_str().ok_or_else(|| invalid("a group has no id"))?;
            // Null properties are no nameless group: the token may see a membership, but not the group (Microsoft Graph, `permissions-overview.md`).
            let Some(name) = group["displayName"].as_str() else {
                self.nameless += 1;
                continue;
            };
            self.count += 1;
            let id = id.to_ascii_lowercase();
            self.names.entry(name.to_lowercase()).or_default().push(id.clone());
            self.ids.insert(id);
        }
        Ok(())
    }

    /// `$filter=displayName eq` ignores case; so does this.
    fn has(&self, group: &GroupRef) -> bool {
        !self.matching(group).is_empty()
    }

    /// Object ids of the groups that are meant.
    fn matching(&self, group: &GroupRef) -> Vec<String> {
        match group {
            GroupRef::Id(id) => self.ids.get(&id.to_ascii_lowercase()).cloned().into_iter().collect(),
            GroupRef::Name(name) => self.names.get(&name.to_lowercase()).cloned().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_odata_and_url() {
        let url = group_url(&GroupRef::Name("O'Brien & sons+1".to_owned()));
        assert_eq!(url, "/groups?$select=id,displayName&$filter=displayName%20eq%20%27O%27%27Brien%20%26%20sons%2B1%27");
    }

    #[test]
    fn null_names_are_no_groups() {
        let mut seen = Seen::default();
        seen.add(&json!({"value": [{"id": "A", "displayName": "HQ"}, {"id": "b", "displayName": null}]})).expect("a page");
        assert_eq!((seen.count, seen.nameless), (1, 1));
        assert!(
            seen.has(&GroupRef::Name("hq".to_owned()))
                && seen.has(&GroupRef::Id("a".to_owned()))
                && !seen.has(&GroupRef::Id("b".to_owned()))
        );
        for page in [json!({}), json!({"value": "x"}), json!({"value": [1]}), json!({"value": [{"displayName": "x"}]})] {
            assert_eq!(Seen::default().add(&page).map_err(|f| f.reason), Err(Reason::InvalidResponse), "{page}");
        }
    }
}
