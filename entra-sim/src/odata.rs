//! The part of OData that Graph supports for directory objects: `$filter`, `$select`, `$top`, `$count`, `$search`, paging.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::reply::Reply;

/// A conjunction of comparisons.
#[derive(Debug)]
pub struct Filter(Vec<Term>);

#[derive(Debug)]
enum Term {
    Equals(String, String),
    StartsWith(String, String),
    AnyEquals(String, String),
}

impl Filter {
    /// Parses `a eq 'x' and startswith(b,'y') and c/any(v:v eq 'z')`.
    ///
    /// # Errors
    /// The message of Graph's 400 response.
    pub fn parse(text: &str) -> Result<Self, String> {
        split_outside_quotes(text, " and ")
            .iter()
            .map(|t| Term::parse(t.trim()))
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
    }

    /// Whether an object satisfies every term.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|term| match term {
            Term::Equals(field, value) => {
                text_of(&object[field]).is_some_and(|t| t.eq_ignore_ascii_case(value))
            }
            Term::StartsWith(field, value) => {
                text_of(&object[field]).is_some_and(|t| t.to_lowercase().starts_with(&value.to_lowercase()))
            }
            Term::AnyEquals(field, value) => {
                object[field].as_array().is_some_and(|a| a.iter().any(|v| v.as_str() == Some(value)))
            }
        })
    }
}

impl Term {
    fn parse(term: &str) -> Result<Self, String> {
        let unsupported = || format!("Unsupported or invalid query filter clause '{term}'.");
        if let Some(inner) = term.strip_prefix("startswith(").and_then(|t| t.strip_suffix(')')) {
            let (field, value) = inner.split_once(',').ok_or_else(unsupported)?;
            return Ok(Self::StartsWith(
                field.trim().to_owned(),
                literal(value.trim()).ok_or_else(unsupported)?,
            ));
        }
        if let Some((field, rest)) = term.split_once("/any(") {
            let inner = rest.strip_suffix(')').and_then(|r| r.split_once(':')).ok_or_else(unsupported)?.1;
            let (_, value) = inner.split_once(" eq ").ok_or_else(unsupported)?;
            return Ok(Self::AnyEquals(field.to_owned(), literal(value.trim()).ok_or_else(unsupported)?));
        }
        let (field, value) = term.split_once(" eq ").ok_or_else(unsupported)?;
        Ok(Self::Equals(field.trim().to_owned(), literal(value.trim()).ok_or_else(unsupported)?))
    }
}

/// A quoted string with doubled apostrophes, or a bare GUID, number or boolean.
fn literal(text: &str) -> Option<String> {
    match text.strip_prefix('\'') {
        Some(rest) => {
            let inner = rest.strip_suffix('\'')?;
            let bare = inner.replace("''", "");
            (!bare.contains('\'')).then(|| inner.replace("''", "'"))
        }
        None => (!text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
            .then(|| text.to_owned()),
    }
}

fn split_outside_quotes(text: &str, separator: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !quoted && rest.starts_with(separator) {
            parts.push(String::new());
            rest = &rest[separator.len()..];
            continue;
        }
        quoted ^= c == '\'';
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    parts
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// Whether `$select` names this property.
pub fn selects(query: &HashMap<String, String>, property: &str) -> bool {
    query
        .get("$select")
        .is_some_and(|wanted| wanted.split(',').any(|w| w.trim().eq_ignore_ascii_case(property)))
}

/// Keeps the properties named in `$select`.
pub fn select(object: Value, query: &HashMap<String, String>) -> Value {
    let Some(wanted) = query.get("$select") else { return object };
    let Value::Object(map) = object else { return object };
    let wanted: Vec<&str> = wanted.split(',').map(str::trim).collect();
    Value::Object(
        map.into_iter()
            .filter(|(k, _)| wanted.iter().any(|w| w.eq_ignore_ascii_case(k)))
            .collect::<Map<_, _>>(),
    )
}

/// A request for one page of a collection.
#[derive(Debug)]
pub struct Page<'a> {
    /// Query of the request.
    pub query: &'a HashMap<String, String>,
    /// `ConsistencyLevel: eventual` was sent.
    pub eventual: bool,
    /// Base URL of Graph.
    pub graph: &'a str,
    /// Path and query of the request, for the next link.
    pub target: &'a str,
    /// Maximum number of items: the service may return fewer than were requested.
    pub most: Option<usize>,
}

impl Page<'_> {
    /// The response with one page of these (already filtered) items.
    ///
    /// # Errors
    /// Graph's 400 response for unsupported parameters.
    pub fn answer(&self, mut items: Vec<Value>) -> Result<Reply, Box<Reply>> {
        let bad = |code: &str, message: &str| Err(Box::new(Reply::graph_error(400, code, message)));
        let count = self.query.get("$count").is_some_and(|c| c == "true");
        if (count || self.query.contains_key("$search")) && !self.eventual {
            return bad(
                "Request_UnsupportedQuery",
                "Request with $search or $count query parameter only works through MSGraph with a special request header: 'ConsistencyLevel: eventual'",
            );
        }
        if self.query.contains_key("$skip") {
            return bad("Request_BadRequest", "'$skip' is not supported by the service.");
        }
        if let Some(search) = self.query.get("$search") {
            let Some((field, value)) = search.trim_matches('"').split_once(':') else {
                return bad("Request_UnsupportedQuery", "Syntax error in $search.");
            };
            items.retain(|i| {
                text_of(&i[field]).is_some_and(|t| t.to_lowercase().contains(&value.to_lowercase()))
            });
        }
        let size = match self.query.get("$top").map(|t| t.parse::<usize>()) {
            None => 100,
            Some(Ok(top)) if (1..=999).contains(&top) => top,
            Some(_) => {
                return bad(
                    "Request_UnsupportedQuery",
                    "Invalid page size specified. Must be between 1 and 999 inclusive.",
                );
            }
        };
        let size = self.most.map_or(size, |most| size.min(most.max(1)));
        let start = match self.query.get("$skiptoken").map(|t| t.trim_start_matches("SIM").parse::<usize>()) {
            None => 0,
            Some(Ok(start)) if start <= items.len() => start,
            Some(_) => {
                return bad(
                    "Directory_ExpiredPageToken",
                    "The specified page token value has expired and can no longer be included in your request.",
                );
            }
        };
        let total = items.len();
        let page: Vec<Value> =
            items.into_iter().skip(start).take(size).map(|i| select(i, self.query)).collect();
        let mut body = json!({"@odata.context": format!("{}/v1.0/$metadata", self.graph), "value": page});
        if count && start == 0 {
            body["@odata.count"] = json!(total);
        }
        if start + size < total {
            let (path, query) = self.target.split_once('?').unwrap_or((self.target, ""));
            let kept = url::form_urlencoded::parse(query.as_bytes()).filter(|(k, _)| k != "$skiptoken");
            let next = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(kept)
                .append_pair("$skiptoken", &format!("SIM{}", start + size))
                .finish();
            body["@odata.nextLink"] = json!(format!("{}/v1.0{path}?{next}", self.graph));
        }
        Ok(Reply::json(200, &body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_follow_odata_quoting() {
        let group = json!({"displayName": "O'Brien and sons", "names": ["a", "b"]});
        for (text, expected) in [
            ("displayName eq 'O''Brien and sons'", Some(true)),
            ("displayName eq 'other'", Some(false)),
            ("startswith(displayName,'o''b')", Some(true)),
            ("names/any(n:n eq 'b') and displayName eq 'O''Brien and sons'", Some(true)),
            ("displayName eq 'O'Brien'", None),
            ("displayName ne 'x'", None),
        ] {
            assert_eq!(Filter::parse(text).ok().map(|f| f.matches(&group)), expected, "{text}");
        }
    }
}
