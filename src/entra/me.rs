//! The person behind a delegated token, as Graph shows them: guest or member, and which directory roles they hold.

use std::time::Instant;

use super::Entra;
use super::classify::GraphCaller;
use super::graph::GraphRequest;
use crate::domain::{Fault, Reason};

/// Nobody holds more directory roles than fit on so many pages.
const PAGES: usize = 5;

impl Entra {
    /// `userType` of the person (`Member` or `Guest`; Microsoft Graph, `resources/user.md`). `None` where the token may read the person but
    /// not this.
    ///
    /// # Errors
    /// What Graph's refusal means.
    pub async fn user_type(&self, token: &str, deadline: Instant) -> Result<Option<String>, Fault> {
        let asker = GraphRequest { token, caller: GraphCaller::Own, deadline };
        let me = self.get(asker, &format!("{}/v1.0/me?$select=id,userType", self.cloud.graph_url)).await?;
        Ok(me["userType"].as_str().map(str::to_owned))
    }

    /// Template ids of the directory roles that the person holds now, directly or through a group (Microsoft Graph,
    /// `api/user-list-transitivememberof.md`). A role that the person could activate is not among them.
    ///
    /// # Errors
    /// What Graph's refusal means.
    pub async fn directory_roles(&self, token: &str, deadline: Instant) -> Result<Vec<String>, Fault> {
        let asker = GraphRequest { token, caller: GraphCaller::Own, deadline };
        let cast = "me/transitiveMemberOf/microsoft.graph.directoryRole?$select=id,roleTemplateId";
        let mut url = format!("{}/v1.0/{cast}", self.cloud.graph_url);
        let mut roles = Vec::new();
        for _ in 0..PAGES {
            let page = self.get(asker, &url).await?;
            let Some(found) = page["value"].as_array() else {
                return Err(Fault::new(Reason::InvalidResponse, "a list of directory roles has no value"));
            };
            roles.extend(
                found.iter().filter_map(|role| role["roleTemplateId"].as_str()).map(str::to_ascii_lowercase),
            );
            match self.next_link(&page)? {
                Some(next) => url = next.to_owned(),
                None => break,
            }
        }
        Ok(roles)
    }
}
