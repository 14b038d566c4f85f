//! Faults that can be switched on while the simulator runs.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// The endpoint that a fault applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// Everything.
    Any,
    /// The token endpoint.
    Token,
    /// OpenID configuration and keys.
    Openid,
    /// Graph, whole responses (a `$batch` request as a whole).
    Graph,
    /// Graph, single requests inside a `$batch`.
    BatchItem,
    /// The endpoints that issue tokens of managed identities.
    ManagedIdentity,
}

/// What happens instead of the regular response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// This status, with a body of the endpoint's usual error shape.
    Status {
        /// HTTP status.
        status: u16,
        /// Value of `Retry-After`, written as given (tests also send invalid values).
        #[serde(default)]
        retry_after: Option<String>,
    },
    /// The regular response after a delay.
    Latency {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// No response; the connection stays open.
    Hang,
    /// The connection is closed without a response.
    Reset,
    /// 200 with a body that ends in the middle.
    BrokenJson,
    /// 200 with a body that never ends.
    EndlessBody,
    /// 200 with valid JSON of this size.
    HugeJson {
        /// Size of the body in bytes.
        bytes: usize,
    },
    /// A gateway's HTML page.
    Html {
        /// HTTP status.
        status: u16,
    },
    /// 302 to this address.
    Redirect {
        /// Value of `Location`.
        location: String,
    },
    /// 200 with this body.
    Body {
        /// Sent as `application/json`.
        text: String,
    },
    /// Exactly this response: what a proxy, a gateway or another version of the service would send.
    Answer {
        /// HTTP status.
        status: u16,
        /// Headers besides `Content-Type`.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// Value of `Content-Type`.
        #[serde(default = "json_type")]
        content_type: String,
        /// The body. Inside a batch it is embedded as JSON if it is JSON, otherwise as a string.
        #[serde(default)]
        body: String,
    },
    /// The regular response, with the first occurrence of a text in its body replaced.
    Rewrite {
        /// The text that is replaced; if it is empty, the other one is inserted at the beginning.
        find: String,
        /// The replacement.
        replace: String,
    },
    /// The token endpoint's error with this AADSTS code, or Graph's error with this code.
    Error {
        /// HTTP status.
        status: u16,
        /// `error` of the token endpoint or `error.code` of Graph.
        error: String,
        /// AADSTS number.
        #[serde(default)]
        aadsts: Option<u32>,
        /// `suberror`.
        #[serde(default)]
        suberror: Option<String>,
    },
}

fn json_type() -> String {
    "application/json".to_owned()
}

/// A fault and the requests that it applies to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which endpoint.
    pub endpoint: Endpoint,
    /// Only requests of this tenant (GUID or domain, as the request names it or its token says).
    #[serde(default)]
    pub tenant: Option<String>,
    /// Only requests whose path and query contain this text.
    #[serde(default)]
    pub contains: Option<String>,
    /// How often it happens; without it until the faults are cleared.
    #[serde(default)]
    pub times: Option<u32>,
    /// What happens.
    pub fault: FaultKind,
}

/// The active faults.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    /// Switches a fault on.
    pub fn add(&self, fault: Fault) {
        self.lock().push(fault);
    }

    /// Switches all faults off.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// The first fault that applies to this request; its `times` is decreased. `tenants` are the names of the request's tenant.
    pub fn take(&self, endpoint: Endpoint, tenants: &[&str], target: &str) -> Option<FaultKind> {
        let mut faults = self.lock();
        let index = faults.iter().position(|f| {
            let endpoint_matches =
                f.endpoint == endpoint || (f.endpoint == Endpoint::Any && endpoint != Endpoint::BatchItem);
            let tenant_matches =
                f.tenant.as_deref().is_none_or(|t| tenants.iter().any(|name| name.eq_ignore_ascii_case(t)));
            endpoint_matches
                && tenant_matches
                && f.contains.as_deref().is_none_or(|part| target.contains(part))
                && f.times != Some(0)
        })?;
        let kind = faults[index].fault.clone();
        if let Some(times) = &mut faults[index].times {
            *times -= 1;
            if *times == 0 {
                faults.remove(index);
            }
        }
        Some(kind)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
