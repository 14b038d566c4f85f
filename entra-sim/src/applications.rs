//! Graph's application objects: they exist in the home tenant only.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::credentials::{key_credentials, password_credentials};
use crate::graph::{Context, READ_APPS, alternate_key, denied, not_found};
use crate::model::{Federated, Registration};
use crate::odata::{select, selects};
use crate::reply::Reply;

impl Context<'_> {
    /// The registration behind `applications(appId='…')` or `applications/{id}`, if the caller may read it here.
    fn readable_application(&self, key: &str) -> Result<&Registration, Box<Reply>> {
        let id = alternate_key(key).or_else(|| Uuid::parse_str(key).ok());
        if id != Some(self.caller.app_id) && !self.caller.may(&READ_APPS) {
            return Err(Box::new(denied()));
        }
        id.and_then(|id| self.world.apps.get(&id))
            .filter(|app| app.home.is_none_or(|home| home == self.tenant.id))
            .ok_or_else(|| Box::new(not_found(key)))
    }

    pub(crate) fn application(&self, key: &str) -> Reply {
        let app = match self.readable_application(key) {
            Ok(app) => app,
            Err(reply) => return *reply,
        };
        let keys = if selects(self.query, "keyCredentials") { key_credentials(app) } else { Vec::new() };
        let body = json!({"id": app.app_id, "appId": app.app_id, "displayName": app.name, "isDisabled": app.deactivated,
            "passwordCredentials": password_credentials(app), "keyCredentials": keys, "requiredResourceAccess": []});
        Reply::json(200, &select(body, self.query))
    }

    pub(crate) fn federated_credentials(&self, key: &str) -> Reply {
        let app = match self.readable_application(key) {
            Ok(app) => app,
            Err(reply) => return *reply,
        };
        let entry = |(index, f): (usize, &Federated)| -> Value {
            let id = Uuid::from_u128(!app.app_id.as_u128() ^ index as u128);
            json!({"id": id, "name": f.name, "issuer": f.issuer, "subject": f.subject,
                "audiences": [f.audience], "description": null})
        };
        self.page(app.federated.iter().enumerate().map(entry).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use crate::fixture::{APP, CUSTOMER, VENDOR, act, read, read_as, world};

    #[test]
    fn the_application_object_is_in_its_home_tenant_only() {
        const NOBODY: Uuid = Uuid::from_u128(9);
        let reader: &[&str] = &["Application.Read.All"];
        for (home, caller, tenant, permissions, status) in [
            (None, APP, VENDOR, &[][..], 200),
            (None, APP, CUSTOMER, &[], 200),
            (Some(VENDOR), APP, VENDOR, &[], 200),
            (Some(VENDOR), APP, CUSTOMER, &[], 404),
            (Some(VENDOR), NOBODY, VENDOR, reader, 200),
            (Some(VENDOR), NOBODY, CUSTOMER, reader, 404),
            (Some(VENDOR), NOBODY, VENDOR, &[], 403),
            (Some(VENDOR), NOBODY, CUSTOMER, &[], 403),
        ] {
            let mut world = world();
            if let Some(home) = home {
                act(&mut world, json!({"action": "set_home_tenant", "app": APP, "tenant": home})).unwrap();
            }
            for object in [format!("/applications(appId='{APP}')"), format!("/applications/{APP}")] {
                for target in
                    [format!("{object}?$select=id"), format!("{object}/federatedIdentityCredentials")]
                {
                    let row =
                        format!("home {home:?}, {caller} with {permissions:?} in {tenant} reads {target}");
                    assert_eq!(read_as(&world, caller, tenant, permissions, &target).0, status, "{row}");
                }
            }
            let (_, principal) = read(&world, CUSTOMER, &[], &format!("/servicePrincipals(appId='{APP}')"));
            let owner = home.map_or(Value::Null, |home| json!(world.tenant_id(home)));
            assert_eq!(principal["appOwnerOrganizationId"], owner, "home {home:?}");
        }
    }

    #[test]
    fn federated_credentials_are_listed() {
        let mut world = world();
        let target = format!("/applications(appId='{APP}')/federatedIdentityCredentials");
        assert_eq!(read(&world, VENDOR, &[], &target).1["value"], json!([]));
        let added = json!({"action": "add_federated_credential", "app": APP, "name": "cluster",
            "issuer": "https://issuer.example", "subject": "system:serviceaccount:a:b"});
        act(&mut world, added).unwrap();
        let (_, body) = read(&world, VENDOR, &[], &target);
        let listed = &body["value"][0];
        for (property, value) in [
            ("name", json!("cluster")),
            ("issuer", json!("https://issuer.example")),
            ("subject", json!("system:serviceaccount:a:b")),
            ("audiences", json!(["api://AzureADTokenExchange"])),
        ] {
            assert_eq!(listed[property], value, "{property}");
        }
    }
}
