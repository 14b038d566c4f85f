//! The grammars of single configuration values, such as durations, GUIDs and URLs.

use std::time::Duration;

use url::Url;
use uuid::Uuid;

/// Prometheus' duration grammar: `1d12h`, `5m`, `300ms`; units in descending order, each at most once; or `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    const UNITS: [(&str, u64); 7] = [
        ("y", 31_536_000_000),
        ("w", 604_800_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut total: u64 = 0;
    let mut rest = text;
    let mut smallest = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let index = UNITS.iter().position(|(unit, _)| *unit == &rest[..letters])?;
        if index < smallest {
            return None;
        }
        smallest = index + 1;
        total = total.checked_add(number.checked_mul(UNITS[index].1)?)?;
        rest = &rest[letters..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// A duration in the same grammar, largest units first.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= size {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    text
}

/// A GUID in its usual form, lower-cased.
pub fn parse_guid(text: &str) -> Option<String> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(|id| id.to_string())
}

/// Words and a tenant id that stand for many tenants, or for personal accounts, in URLs of Entra (Microsoft,
/// `v2-protocols.md` and `id-token-claims-reference.md`): no customer's tenant can be probed there.
pub fn is_no_tenant(text: &str) -> bool {
    ["common", "organizations", "consumers", "9188040d-6c67-4c5b-b112-36a304b66dad"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

/// A URL that people or webhooks see.
///
/// # Errors
/// The text is not a URL, or it contains a user name or password, which everybody who sees the URL would see. The text itself is searched
/// for user information, too, because the parser drops an empty one.
pub fn shown_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is not a URL")?;
    let after_scheme = text.split_once(':').map_or("", |(_, rest)| rest).trim_start_matches(['/', '\\']);
    let authority = after_scheme.split(['/', '\\', '?', '#']).next().unwrap_or_default();
    if !url.username().is_empty() || url.password().is_some() || authority.contains('@') {
        return Err("must not hold a user name or password: whoever sees the URL would see them");
    }
    Ok(url)
}

/// A URL whose path and query may hold a secret, in the form that may be shown: scheme, host and port.
pub fn hidden_path(url: &str) -> String {
    let Ok(parsed) = Url::parse(url) else { return super::HIDDEN.to_owned() };
    let Some(host) = parsed.host_str() else { return super::HIDDEN.to_owned() };
    let port = parsed.port().map(|p| format!(":{p}")).unwrap_or_default();
    let bare = matches!(parsed.path(), "" | "/") && parsed.query().is_none() && parsed.fragment().is_none();
    format!("{}://{host}{port}/{}", parsed.scheme(), if bare { "" } else { super::HIDDEN })
}

/// A GUID or a verified domain.
pub fn parse_tenant(text: &str) -> Option<String> {
    if let Some(id) = parse_guid(text) {
        return Some(id);
    }
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let domain = text.contains('.') && text.len() <= 253 && text.split('.').all(label);
    // A mistyped GUID has no dot, so it is not taken for a domain.
    domain.then(|| text.to_ascii_lowercase())
}

/// Whether a text is valid as an integration's name.
pub fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    first
        && text.len() <= 200
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-'))
}

/// Whether a text is a Prometheus label name.
pub fn is_label_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether a text is a permission value, such as `Group.Read.All`.
pub fn is_permission(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 200
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/'))
}

/// Replaces `${NAME}` by the value of the environment variable; `$${` stands for a literal `${`.
///
/// # Errors
/// A variable is not set, or a reference is malformed.
pub fn expand(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start]);
            out.push('{');
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let end = rest[start..]
            .find('}')
            .ok_or("`${` has no closing brace; write `$${` for the characters themselves")?;
        let name = &rest[start + 2..start + end];
        if !is_label_name(name) {
            return Err("`${…}` must hold the name of an environment variable; write `$${` for the characters themselves".to_owned());
        }
        let value = environment(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
        out.push_str(&value);
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The known word nearest to a mistyped one, if it is similar enough (by edit distance).
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|k| (strsim::damerau_levenshtein(&word.to_ascii_lowercase(), k), k));
    scored
        .filter(|(distance, k)| *distance <= 1 + k.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_prometheus_durations() {
        for (text, expected) in [
            ("300ms", Some(300)),
            ("5m", Some(300_000)),
            ("1d", Some(86_400_000)),
            ("1h30m", Some(5_400_000)),
            ("0", Some(0)),
            ("30m1h", None),
            ("1h1h", None),
            ("5", None),
            ("-5m", None),
            ("5 m", None),
            ("1.5h", None),
            ("", None),
            ("5min", None),
            ("99999999999999999999y", None),
            ("9999999999999y", None),
        ] {
            assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text}");
        }
        assert_eq!(format_duration(Duration::from_secs(90_061)), "1d1h1m1s");
    }

    #[test]
    fn shown_urls_with_user_information_are_rejected() {
        for (text, expected) in [
            ("https://consentry.example.com", true),
            ("https://consentry.example.com/a@b?c=d@e", true),
            ("https://consentry.example.com:8443/base", true),
            ("https://user@consentry.example.com", false),
            ("https://user:hunter@consentry.example.com/", false),
            ("https://:hunter@consentry.example.com/", false),
            ("https://@consentry.example.com/", false),
            ("https:user:hunter@consentry.example.com/", false),
            ("https:\\\\user@consentry.example.com/", false),
            ("consentry.example.com", false),
            ("", false),
        ] {
            assert_eq!(shown_url(text).is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn paths_that_may_be_secrets_are_hidden() {
        for (url, expected) in [
            ("https://app.example.com/hooks/hunter", "https://app.example.com/<secret>"),
            ("https://app.example.com?key=hunter", "https://app.example.com/<secret>"),
            ("https://app.example.com/#hunter", "https://app.example.com/<secret>"),
            ("https://user:hunter@app.example.com:8443/hunter", "https://app.example.com:8443/<secret>"),
            ("http://[::1]:9/hunter", "http://[::1]:9/<secret>"),
            ("https://app.example.com/", "https://app.example.com/"),
            ("https://app.example.com", "https://app.example.com/"),
            ("nonsense hunter", "<secret>"),
            ("mailto:hunter", "<secret>"),
        ] {
            assert_eq!(hidden_path(url), expected);
        }
    }

    #[test]
    fn words_for_many_tenants_are_recognized() {
        for text in ["common", "Organizations", "consumers", "9188040D-6C67-4C5B-B112-36A304B66DAD"] {
            assert!(is_no_tenant(text), "{text}");
        }
        assert!(
            !is_no_tenant("contoso.onmicrosoft.com") && !is_no_tenant("6f1c0000-0000-0000-0000-000000000001")
        );
    }

    #[test]
    fn names_tenants_and_references_are_validated() {
        for (text, valid) in [
            ("acme", true),
            ("0-a_b.c", true),
            ("", false),
            ("-a", false),
            ("Acme", false),
            ("a b", false),
            ("é", false),
        ] {
            assert_eq!(is_name(text), valid, "{text}");
        }
        for (text, valid) in [
            ("contoso.onmicrosoft.com", true),
            ("6F1C0000-0000-0000-0000-000000000001", true),
            ("6f1c0000-0000-0000-0000-00000000000", false),
            ("common", false),
            ("a..b", false),
            ("a/b.c", false),
        ] {
            assert_eq!(parse_tenant(text).is_some(), valid, "{text}");
        }
        let environment = |name: &str| (name == "X").then(|| "value".to_owned());
        for (text, expected) in [
            ("a${X}b", Ok("avalueb")),
            ("$${X}", Ok("${X}")),
            ("pa$$word$", Ok("pa$$word$")),
            ("${Y}", Err(())),
            ("${X", Err(())),
        ] {
            assert_eq!(expand(text, &environment).map_err(|_| ()), expected.map(str::to_owned), "{text}");
        }
        assert_eq!(nearest("intervall", ["interval", "timeout"]), Some("interval"));
        assert_eq!(nearest("zzz", ["interval", "timeout"]), None);
    }
}
