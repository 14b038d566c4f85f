//! The user of a delegated token, as Graph shows them: guest or member, and their directory roles.

use std::time::Instant;

use super::Entra;
use super::classify::GraphCaller;
use super::graph::GraphRequest;
use crate::domain::{Fault, Reason};

/// No user has more directory roles than fit on this many pages.
const PAGES: usize = 5;

impl Entra {
    /// `userType` of the user (`Member` or `Guest`; Microsoft Graph, `resources/user.md`). `None` if the token may read the user but not
    /// this property.
    ///
    /// # Errors
    /// The reason of Graph's error.
    pub async fn user_type(&self, token: &str, deadline: Instant) -> Result<Option<String>, Fault> {
        let request = GraphRequest { token, caller: GraphCaller::Own, deadline };
        let me = self.get(request, &format!("{}/v1.0/me?$select=id,userType", self.cloud.graph_url)).await?;
        Ok(me["userType"].as_str().map(str::to_owned))
    }

    /// Template ids of the directory roles that the user holds now, directly or through a group (Microsoft Graph,
    /// `api/user-list-transitivememberof.md`). A role that the user could activate is not included.
    ///
    /// # Errors
    /// The reason of Graph's error.
    pub async fn directory_roles(&self, token: &str, deadline: Instant) -> Result<Vec<String>, Fault> {
        let request = GraphRequest { token, caller: GraphCaller::Own, deadline };
        let cast = "me/transitiveMemberOf/microsoft.graph.directoryRole?$select=id,roleTemplateId";
        let mut url = format!("{}/v1.0/{cast}", self.cloud.graph_url);
        let mut roles = Vec::new();
        for _ in 0..PAGES {
            let page = self.get(request, &url).await?;
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
