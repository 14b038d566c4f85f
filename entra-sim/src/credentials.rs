//! Secrets and certificates of registrations, and SAML signing certificates of service principals.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::certificate::{thumbprint, validity};
use crate::model::{Registration, Secret, ServicePrincipal};

/// A secret to add; what is `None` is chosen.
pub(crate) struct NewSecret {
    pub(crate) value: String,
    pub(crate) expires: Timestamp,
    pub(crate) key_id: Option<Uuid>,
    pub(crate) name: Option<String>,
}

/// Adds a secret to a registration.
pub(crate) fn add_secret(app: &mut Registration, new: NewSecret) {
    let NewSecret { value, expires, key_id, name } = new;
    let key_id = key_id.unwrap_or_else(|| app.free_key_id());
    let name = name.unwrap_or_else(|| "secret".to_owned());
    app.secrets.push(Secret { key_id, name, value, expires });
}

/// Removes the secret with this key id.
pub(crate) fn remove_secret(app: &mut Registration, key_id: Uuid) -> Result<(), String> {
    let before = app.secrets.len();
    app.secrets.retain(|s| s.key_id != key_id);
    if app.secrets.len() == before {
        return Err(format!("no secret {key_id} in {}", app.name));
    }
    Ok(())
}

/// `passwordCredentials` of the application.
pub(crate) fn password_credentials(app: &Registration) -> Vec<Value> {
    let entry = |s: &Secret| {
        json!({"keyId": s.key_id, "displayName": s.name, "hint": s.value.chars().take(3).collect::<String>(),
            "endDateTime": s.expires.to_string(), "startDateTime": Timestamp::UNIX_EPOCH.to_string(),
            "secretText": null, "customKeyIdentifier": null})
    };
    app.raw_password_credentials.clone().unwrap_or_else(|| app.secrets.iter().map(entry).collect())
}

/// `keyCredentials` of the application.
pub(crate) fn key_credentials(app: &Registration) -> Vec<Value> {
    let entry = |der: &Vec<u8>| {
        let thumbprint = thumbprint(der);
        let times = validity(der).map(|(from, until)| (from.to_string(), until.to_string())).unzip();
        json!({"keyId": numbered(&thumbprint, 0), "type": "AsymmetricX509Cert", "usage": "Verify", "key": null,
            "displayName": "certificate", "customKeyIdentifier": STANDARD.encode(&thumbprint),
            "startDateTime": times.0, "endDateTime": times.1})
    };
    app.raw_key_credentials.clone().unwrap_or_else(|| app.certificates.iter().map(entry).collect())
}

/// A key id made from a thumbprint: the same in every run.
fn numbered(thumbprint: &[u8], number: u128) -> Uuid {
    let bytes = thumbprint.first_chunk::<16>().copied().unwrap_or_default();
    Uuid::from_u128(u128::from_be_bytes(bytes) ^ number)
}

/// A SAML signing certificate as Entra makes it.
pub(crate) struct SamlCertificate<'a> {
    pub(crate) thumbprint: &'a str,
    pub(crate) expires: Timestamp,
    pub(crate) active: bool,
}

/// Adds the three entries of a SAML signing certificate: the private key, the certificate, and the private key's password.
pub(crate) fn add_saml_certificate(
    principal: &mut ServicePrincipal,
    certificate: SamlCertificate<'_>,
) -> Result<(), String> {
    let SamlCertificate { thumbprint, expires, active } = certificate;
    let bytes = hexadecimal(thumbprint)
        .filter(|bytes| bytes.len() == 20)
        .ok_or_else(|| format!("thumbprint {thumbprint} does not have 40 hexadecimal digits"))?;
    let identifier = STANDARD.encode(&bytes);
    // Entra's signing certificates are valid for three years.
    let starts = expires - SignedDuration::from_hours(3 * 365 * 24);
    let key = |number, kind: &str, usage: &str| {
        json!({"keyId": numbered(&bytes, number), "type": kind, "usage": usage, "key": null,
            "displayName": "CN=Microsoft Azure Federated SSO Certificate", "customKeyIdentifier": identifier,
            "startDateTime": starts.to_string(), "endDateTime": expires.to_string()})
    };
    let signing = principal.signing.get_or_insert_default();
    signing.key_credentials.push(key(1, "X509CertAndPassword", "Sign"));
    signing.key_credentials.push(key(2, "AsymmetricX509Cert", "Verify"));
    signing.password_credentials.push(json!({"keyId": numbered(&bytes, 3), "hint": null, "secretText": null,
        "displayName": "CN=Microsoft Azure Federated SSO Certificate", "customKeyIdentifier": identifier,
        "startDateTime": starts.to_string(), "endDateTime": expires.to_string()}));
    if active {
        signing.preferred_thumbprint = Some(thumbprint.to_owned());
    }
    Ok(())
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|c| c.to_digit(16)).collect::<Option<Vec<u32>>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| (high * 16 + low) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{APP, CUSTOMER, NOW, VENDOR, act, read, request_token, world};
    use crate::model::World;

    const THUMBPRINT: &str = "00112233445566778899AABBCCDDEEFF00112233";

    fn application(world: &World, query: &str) -> Value {
        read(world, VENDOR, &[], &format!("/applications(appId='{APP}'){query}")).1
    }

    fn principal(world: &World, query: &str) -> Value {
        read(world, CUSTOMER, &[], &format!("/servicePrincipals(appId='{APP}'){query}")).1
    }

    fn key_ids(world: &World) -> Vec<Value> {
        let listed = application(world, "")["passwordCredentials"].clone();
        listed.as_array().unwrap().iter().map(|s| s["keyId"].clone()).collect()
    }

    fn numbered(number: u128) -> Uuid {
        Uuid::from_u128(APP.as_u128() ^ number)
    }

    #[test]
    fn key_ids_of_secrets_are_counted_unless_they_are_given() {
        let given = Uuid::from_u128(77);
        let add = json!({"action": "add_secret", "app": APP, "secret": "value"});
        let add_given = json!({"action": "add_secret", "app": APP, "secret": "given", "key_id": given, "display_name": "other"});
        let remove = |id: Uuid| json!({"action": "remove_secret", "app": APP, "key_id": id});
        for (steps, expected) in [
            (vec![add.clone()], vec![numbered(1)]),
            (vec![add.clone(), add.clone()], vec![numbered(1), numbered(2)]),
            (vec![add.clone(), add_given, add.clone()], vec![numbered(1), given, numbered(3)]),
            (
                vec![add.clone(), add.clone(), remove(numbered(1)), add.clone()],
                vec![numbered(2), numbered(3)],
            ),
            (vec![add.clone(), remove(numbered(1))], vec![]),
        ] {
            let mut world = world();
            for step in &steps {
                act(&mut world, step.clone()).unwrap();
            }
            assert_eq!(json!(key_ids(&world)), json!(expected), "{steps:?}");
        }
        assert!(act(&mut world(), remove(given)).is_err(), "a secret that does not exist cannot be removed");
    }

    #[test]
    fn a_secret_is_shown_without_its_text_and_works_until_it_is_removed() {
        let mut world = world();
        let id = Uuid::from_u128(5);
        let add = json!({"action": "add_secret", "app": APP, "secret": "abcdef", "expires_in_seconds": 60,
            "key_id": id, "display_name": "2027"});
        act(&mut world, add).unwrap();
        act(&mut world, json!({"action": "add_secret", "app": APP, "secret": "stays"})).unwrap();
        let shown = application(&world, "")["passwordCredentials"][0].clone();
        for (property, value) in [
            ("keyId", json!(id)),
            ("displayName", json!("2027")),
            ("hint", json!("abc")),
            ("endDateTime", json!("2027-01-15T08:01:00Z")),
            ("secretText", Value::Null),
        ] {
            assert_eq!(shown[property], value, "{property}");
        }
        assert_eq!(request_token(&mut world, ("client_secret", "abcdef")).0, 200);
        act(&mut world, json!({"action": "remove_secret", "app": APP, "key_id": id})).unwrap();
        let (status, body) = request_token(&mut world, ("client_secret", "abcdef"));
        assert_eq!((status, &body["error_codes"]), (401, &json!([7_000_215])));
    }

    #[test]
    fn key_credentials_are_shown_only_when_they_are_selected() {
        let mut world = world();
        let mut parameters = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2030, 2, 3);
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let add = json!({"action": "add_certificate", "app": APP, "certificate_pem": certificate.pem()});
        act(&mut world, add).unwrap();
        let saml = json!({"action": "add_saml_certificate", "tenant": CUSTOMER, "app": APP,
            "thumbprint": THUMBPRINT, "expires_in_seconds": 60});
        act(&mut world, saml).unwrap();
        for (query, of_application, of_principal) in [
            ("", Some(0), Some(0)),
            ("?$select=id", None, None),
            ("?$select=id,keyCredentials", Some(1), Some(2)),
            ("?$select=keycredentials", Some(1), Some(2)),
        ] {
            let count = |object: Value| object["keyCredentials"].as_array().map(Vec::len);
            assert_eq!(count(application(&world, query)), of_application, "application{query}");
            assert_eq!(count(principal(&world, query)), of_principal, "principal{query}");
        }
        let shown = application(&world, "?$select=keyCredentials")["keyCredentials"][0].clone();
        for (property, value) in [
            ("type", json!("AsymmetricX509Cert")),
            ("usage", json!("Verify")),
            ("endDateTime", json!("2030-02-03T00:00:00Z")),
            ("customKeyIdentifier", json!(STANDARD.encode(thumbprint(certificate.der())))),
        ] {
            assert_eq!(shown[property], value, "{property}");
        }
        let again = application(&world, "?$select=keyCredentials")["keyCredentials"][0].clone();
        assert_eq!(shown["keyId"], again["keyId"]);
    }

    #[test]
    fn raw_credentials_replace_what_the_application_shows() {
        let odd = json!([{"keyId": null, "endDateTime": "0001-01-01T00:00:00Z"}]);
        let nothing = json!([]);
        for (case, passwords, keys, shown_passwords, shown_keys) in [
            ("only passwords", Some(&odd), None, 1, 0),
            ("only keys", None, Some(&odd), 1, 1),
            ("both, and no passwords", Some(&nothing), Some(&odd), 0, 1),
            ("neither, which shows the real ones", None, None, 1, 0),
        ] {
            let mut world = world();
            act(&mut world, json!({"action": "add_secret", "app": APP, "secret": "abc"})).unwrap();
            let raw = json!({"action": "set_raw_credentials", "app": APP,
                "password_credentials": passwords, "key_credentials": keys});
            act(&mut world, raw).unwrap();
            let body = application(&world, "?$select=passwordCredentials,keyCredentials");
            let count = |property: &str| body[property].as_array().unwrap().len();
            let counts = (count("passwordCredentials"), count("keyCredentials"));
            assert_eq!(counts, (shown_passwords, shown_keys), "{case}");
            if passwords == Some(&odd) {
                assert_eq!(body["passwordCredentials"], odd, "{case}");
            }
        }
    }

    #[test]
    fn a_saml_certificate_is_three_entries_with_one_identifier() {
        let mut world = world();
        let add = |thumbprint: &str, active: bool| {
            json!({"action": "add_saml_certificate", "tenant": CUSTOMER, "app": APP,
                "thumbprint": thumbprint, "expires_in_seconds": 60, "active": active})
        };
        assert_eq!(principal(&world, "")["preferredSingleSignOnMode"], Value::Null);
        let other = THUMBPRINT.replace('0', "F");
        act(&mut world, add(THUMBPRINT, true)).unwrap();
        act(&mut world, add(&other, false)).unwrap();
        let body = principal(
            &world,
            "?$select=preferredSingleSignOnMode,preferredTokenSigningKeyThumbprint,keyCredentials,passwordCredentials",
        );
        assert_eq!(body["preferredSingleSignOnMode"], "saml");
        assert_eq!(body["preferredTokenSigningKeyThumbprint"], THUMBPRINT);
        let identifier = json!(STANDARD.encode(hexadecimal(THUMBPRINT).unwrap()));
        let entries =
            [&body["keyCredentials"][0], &body["keyCredentials"][1], &body["passwordCredentials"][0]];
        for (entry, kind, usage) in [
            (entries[0], json!("X509CertAndPassword"), json!("Sign")),
            (entries[1], json!("AsymmetricX509Cert"), json!("Verify")),
            (entries[2], Value::Null, Value::Null),
        ] {
            assert_eq!((&entry["type"], &entry["usage"]), (&kind, &usage));
            assert_eq!(entry["customKeyIdentifier"], identifier);
            assert_eq!(entry["endDateTime"], Timestamp::from_second(NOW + 60).unwrap().to_string());
        }
        assert!(entries[0]["keyId"] != entries[1]["keyId"] && entries[1]["keyId"] != entries[2]["keyId"]);
        assert_eq!(
            read(&world, VENDOR, &[], &format!("/servicePrincipals(appId='{APP}')")).1["passwordCredentials"],
            json!([])
        );
        for wrong in ["", "0011", &THUMBPRINT[1..], &THUMBPRINT.replace('0', "g"), "é"] {
            assert!(act(&mut world, add(wrong, true)).is_err(), "{wrong} is no thumbprint");
        }
    }

    #[test]
    fn signing_certificates_can_be_any_json() {
        let mut world = world();
        let set = json!({"action": "set_signing_certificates", "tenant": CUSTOMER, "app": APP,
            "key_credentials": [{"keyId": "x"}], "password_credentials": [{"endDateTime": 7}], "preferred_thumbprint": "AB"});
        act(&mut world, set).unwrap();
        let body = principal(
            &world,
            "?$select=keyCredentials,passwordCredentials,preferredTokenSigningKeyThumbprint,preferredSingleSignOnMode",
        );
        let expected = json!({"keyCredentials": [{"keyId": "x"}], "passwordCredentials": [{"endDateTime": 7}],
            "preferredTokenSigningKeyThumbprint": "AB", "preferredSingleSignOnMode": "saml"});
        assert_eq!(body, expected);
        for action in [
            json!({"action": "delete_app", "tenant": CUSTOMER, "app": APP}),
            json!({"action": "purge_app", "tenant": CUSTOMER, "app": APP}),
            json!({"action": "install_app", "tenant": CUSTOMER, "app": APP}),
        ] {
            act(&mut world, action).unwrap();
        }
        assert_eq!(principal(&world, "")["preferredSingleSignOnMode"], Value::Null, "a new object has none");
    }
}
