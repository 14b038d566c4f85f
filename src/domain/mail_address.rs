//! Mail addresses and names of mail servers, as written in a configuration. One parser for reading and for sending, so that what the
//! configuration accepts can also be put into an SMTP command (RFC 5321 section 4.1.2).
//!
//! Narrower than the grammar on purpose: quoted local parts, address literals, comments and routes are valid but appear in no directory,
//! and a configuration that contains one is most likely mistyped.

use super::text::one_line;

/// A bare mail address, without the white space around it. The domain may be internationalised; the sender converts it to A-labels.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn parse_mail_address(text: &str) -> Result<String, &'static str> {
    let address = text.trim();
    if address.is_empty() {
        return Err("is empty; write an address like it-admin@example.com");
    }
    if address.starts_with("mailto:") {
        return Err("starts with mailto:; write the address alone, like it-admin@example.com");
    }
    if address.contains(['<', '>']) {
        return Err(
            "has a display name or angle brackets; write the address alone, like it-admin@example.com",
        );
    }
    if address.contains([',', ';']) {
        return Err("holds more than one address; write each of them as its own entry");
    }
    if address.contains(char::is_whitespace) {
        return Err("has a blank inside; write it like it-admin@example.com");
    }
    if has_invisible(address) {
        return Err("has an invisible character, perhaps from copying; type the address again");
    }
    if address.contains('"') {
        return Err("has a quoted local part, which is not supported; write it like it-admin@example.com");
    }
    let (local, domain) = match address.matches('@').count() {
        0 => return Err("has no @; write it like it-admin@example.com"),
        1 => address.split_once('@').unwrap_or_default(),
        _ => return Err("has more than one @; write it like it-admin@example.com"),
    };
    local_part(local)?;
    mail_domain(domain)?;
    // RFC 5321 section 4.5.3.1.3: a path has 256 octets, two of which are its angle brackets.
    if address.len() > 254 {
        return Err("is longer than 254 characters, which no mail server accepts");
    }
    Ok(address.to_owned())
}

/// A mail address that may have a display name before it: `Consentry <consentry@example.com>`. Returns name and address.
///
/// # Errors
/// As [`parse_mail_address`].
pub fn parse_mailbox(text: &str) -> Result<(Option<String>, String), &'static str> {
    let text = text.trim();
    let Some((name, rest)) = text.split_once('<') else { return Ok((None, parse_mail_address(text)?)) };
    let Some(address) = rest.strip_suffix('>') else {
        return Err(
            "has no closing angle bracket at its end; write it like Consentry <consentry@example.com>",
        );
    };
    let name = name.trim();
    let name = name.strip_prefix('"').and_then(|n| n.strip_suffix('"')).unwrap_or(name);
    let spaced = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.contains(char::is_control) || has_invisible(&spaced) {
        return Err(
            "has invisible or control characters in its display name; write it like Consentry <consentry@example.com>",
        );
    }
    Ok(((!spaced.is_empty()).then_some(spaced), parse_mail_address(address)?))
}

/// A name that a client may use in EHLO (RFC 5321 section 4.1.1.1): a domain name, or an address literal such as `[192.0.2.1]`.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn parse_hello(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "is not a host name; write this machine's full name, like consentry.example.com, or an address like [192.0.2.1]";
    let name = text.trim();
    if let Some(literal) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        let good = match literal.strip_prefix("IPv6:") {
            Some(address) => address.parse::<core::net::Ipv6Addr>().is_ok(),
            None => literal.parse::<core::net::Ipv4Addr>().is_ok(),
        };
        return if good { Ok(name.to_owned()) } else { Err(WRONG) };
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if is_host_name(name) { Ok(name.to_owned()) } else { Err(WRONG) }
}

/// Letters, digits and hyphens in labels between dots (RFC 1123 section 2.1); the last label is not a number.
fn is_host_name(name: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let number = name.rsplit('.').next().is_some_and(|l| l.chars().all(|c| c.is_ascii_digit()));
    name.len() <= 253 && !number && name.split('.').all(label)
}

/// Whether the text has an invisible character: zero width, direction of writing, or control.
fn has_invisible(text: &str) -> bool {
    one_line(text, text.len()) != text
}

/// A dot-string (RFC 5321 section 4.1.2), with UTF-8 where RFC 6531 section 3.3 allows it.
fn local_part(local: &str) -> Result<(), &'static str> {
    if local.is_empty() {
        return Err("has nothing before the @; write it like it-admin@example.com");
    }
    if local.len() > 64 {
        return Err("has more than 64 characters before the @, which no mail server accepts");
    }
    if local.split('.').any(str::is_empty) {
        return Err("has a dot at the beginning or end of the part before the @, or two in a row");
    }
    // U+FF20 looks like an @.
    let good = |c: char| match c {
        '\u{ff20}' => false,
        c if c.is_ascii() => c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c),
        _ => true,
    };
    if local.chars().all(good) {
        Ok(())
    } else {
        Err("has a character before the @ that addresses do not have")
    }
}

fn mail_domain(domain: &str) -> Result<(), &'static str> {
    if domain.is_empty() {
        return Err("has nothing after the @; write it like it-admin@example.com");
    }
    if domain.starts_with('[')
        || domain.rsplit('.').next().is_some_and(|l| !l.is_empty() && l.chars().all(|c| c.is_ascii_digit()))
    {
        return Err("has an IP address instead of a domain; write it like it-admin@example.com");
    }
    if domain.split('.').any(str::is_empty) {
        return Err("has a dot at the beginning or end of its domain, or two in a row");
    }
    let label = |l: &str| {
        let good =
            |c: char| if c.is_ascii() { c.is_ascii_alphanumeric() || c == '-' } else { c != '\u{ff20}' };
        l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-') && l.chars().all(good)
    };
    if domain.len() > 253 || !domain.split('.').all(label) {
        return Err("has no valid domain after the @; write it like it-admin@example.com");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_addresses() {
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long_label = format!("a@{}.com", "b".repeat(64));
        let long =
            format!("{}@{}.com", "a".repeat(64), ["b".repeat(62), "c".repeat(62), "d".repeat(62)].join("."));
        for (sentence, text, good) in [
            ("plain", "it-admin@example.com", true),
            ("blanks around it", "  it-admin@example.com ", true),
            ("a tag", "it+entra@example.com", true),
            ("all that a dot-string may have", "!#$%&'*+-/=?^_`{|}~@example.com", true),
            ("an internationalised domain", "it@münchen.example", true),
            ("an internationalised local part", "jörg@example.com", true),
            ("an A-label", "it@xn--mnchen-3ya.example", true),
            ("an intranet", "root@localhost", true),
            ("empty", "", false),
            ("no @", "it-admin.example.com", false),
            ("two @", "it@admin@example.com", false),
            ("a wide @", "it\u{ff20}example.com", false),
            ("a wide @ beside the real one", "it\u{ff20}x@example.com", false),
            ("nothing before the @", "@example.com", false),
            ("nothing after the @", "it@", false),
            ("a display name", "IT <it@example.com>", false),
            ("angle brackets", "<it@example.com>", false),
            ("two addresses", "it@example.com,ops@example.com", false),
            ("two addresses with a semicolon", "it@example.com;ops@example.com", false),
            ("mailto", "mailto:it@example.com", false),
            ("a blank inside", "it admin@example.com", false),
            ("a blank before the @", "it @example.com", false),
            ("a no-break space", "it\u{a0}admin@example.com", false),
            ("a line end inside", "it@example.com\r\nRCPT TO:<x@example.com>", false),
            ("zero width space", "it\u{200b}@example.com", false),
            ("zero width joiner in the domain", "it@exam\u{200d}ple.com", false),
            ("a byte order mark", "\u{feff}it@example.com", false),
            ("a direction override", "it@\u{202e}example.com", false),
            ("a quoted local part", "\"it admin\"@example.com", false),
            ("unnecessary quotes", "\"it\"@example.com", false),
            ("an IPv4 literal", "it@[192.0.2.1]", false),
            ("an IPv6 literal", "it@[IPv6:2001:db8::1]", false),
            ("an address without brackets", "it@192.0.2.1", false),
            ("two dots before the @", "it..admin@example.com", false),
            ("a dot at the end of the local part", "it.@example.com", false),
            ("a dot at the beginning", ".it@example.com", false),
            ("two dots in the domain", "it@example..com", false),
            ("a dot at the end", "it@example.com.", false),
            ("a dot after the @", "it@.example.com", false),
            ("a hyphen at the edge of a label", "it@-example.com", false),
            ("an underscore in the domain", "it@my_company.com", false),
            ("a comment", "it(admin)@example.com", false),
            ("a backslash", "it\\admin@example.com", false),
            ("a port", "it@example.com:25", false),
            ("65 characters before the @", &long_local, false),
            ("a label of 64", &long_label, false),
            ("254 characters and more", &long, false),
        ] {
            assert_eq!(
                parse_mail_address(text).is_ok(),
                good,
                "{sentence}: {text:?} {:?}",
                parse_mail_address(text)
            );
        }
        assert_eq!(parse_mail_address(" it@example.com "), Ok("it@example.com".to_owned()));
        let most = format!("{}@example.com", "a".repeat(64));
        assert_eq!(parse_mail_address(&most), Ok(most.clone()));
    }

    #[test]
    fn mailboxes_may_have_names() {
        let named = |name: &str| Ok((Some(name.to_owned()), "c@example.com".to_owned()));
        for (text, expected) in [
            ("c@example.com", Ok((None, "c@example.com".to_owned()))),
            ("<c@example.com>", Ok((None, "c@example.com".to_owned()))),
            ("Consentry <c@example.com>", named("Consentry")),
            ("\"Genea, Inc.\" <c@example.com>", named("Genea, Inc.")),
            ("Zoë <c@example.com>", named("Zoë")),
            ("Consentry <c@example.com", Err(())),
            ("Consentry c@example.com", Err(())),
            ("Consentry <c@example.com> x", Err(())),
            ("A\r\nBcc: x <c@example.com>", Err(())),
            ("Conse\u{200b}ntry <c@example.com>", Err(())),
            ("<<c@example.com>>", Err(())),
        ] {
            assert_eq!(parse_mailbox(text).map_err(drop), expected, "{text:?}");
        }
    }

    #[test]
    fn names_for_ehlo() {
        for (text, good) in [
            ("consentry.example.com", true),
            ("consentry.example.com.", true),
            ("consentry", true),
            ("[192.0.2.1]", true),
            ("[IPv6:2001:db8::1]", true),
            ("192.0.2.1", false),
            ("[]", false),
            ("[x]", false),
            ("[1.2.3.4.5.6]", false),
            ("con_sentry.example.com", false),
            ("consentry.example.com\r\nMAIL FROM:<a@b.example>", false),
            ("-a.example.com", false),
            ("a..b", false),
            ("", false),
        ] {
            assert_eq!(parse_hello(text).is_ok(), good, "{text:?}");
        }
    }
}
