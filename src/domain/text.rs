//! Makes texts from outside safe to show: one rule for pages, mails, logs, labels and the terminal.

/// One line without control characters, invisible characters and characters that change the direction of writing, cut to `limit`
/// characters. Unicode's bidirectional controls: UAX #9 section 2; its default ignorable code points: UAX #44.
pub fn one_line(text: &str, limit: usize) -> String {
    let spaced: String = text.chars().filter_map(shown).collect();
    let words = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

/// A character as it is shown: a blank for line breaks and control characters, nothing for invisible ones.
fn shown(c: char) -> Option<char> {
    match c {
        '\u{2028}' | '\u{2029}' => Some(' '),
        c if c.is_control() => Some(' '),
        c if is_invisible(c) => None,
        c => Some(c),
    }
}

/// Default ignorable code points, and controls of direction.
fn is_invisible(c: char) -> bool {
    const RANGES: [(char, char); 18] = [
        ('\u{00ad}', '\u{00ad}'),
        ('\u{034f}', '\u{034f}'),
        ('\u{061c}', '\u{061c}'),
        ('\u{115f}', '\u{1160}'),
        ('\u{17b4}', '\u{17b5}'),
        ('\u{180b}', '\u{180f}'),
        ('\u{200b}', '\u{200f}'),
        ('\u{202a}', '\u{202e}'),
        ('\u{2060}', '\u{206f}'),
        ('\u{3164}', '\u{3164}'),
        ('\u{fe00}', '\u{fe0f}'),
        ('\u{feff}', '\u{feff}'),
        ('\u{ffa0}', '\u{ffa0}'),
        ('\u{fff0}', '\u{fffb}'),
        ('\u{1bca0}', '\u{1bca3}'),
        ('\u{1d173}', '\u{1d17a}'),
        ('\u{e0000}', '\u{e0fff}'),
        ('\u{f0000}', '\u{10fffd}'),
    ];
    RANGES.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// A text that a tenant wrote (names, scopes), as [`one_line`], and so that no mail program makes a link of it: dots and `://` of what
/// could be an address are put in brackets. Permission values such as `Group.Read.All` stay as they are.
pub fn foreign(text: &str, limit: usize) -> String {
    let line = one_line(text, limit);
    if is_permission_value(&line) || !(line.contains('.') || line.contains("://") || line.contains('@')) {
        return line;
    }
    let mut out = String::with_capacity(line.len() + 8);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '.' if rest.peek().is_some_and(|next| next.is_alphanumeric()) => out.push_str("[.]"),
            ':' if rest.peek() == Some(&'/') => out.push_str("[:]"),
            '@' => out.push_str("[at]"),
            c => out.push(c),
        }
    }
    out
}

/// Whether a text has the form of Microsoft Graph's permission values (`permissions-reference.md`): capitalised words and dots, where the
/// last word is not a top-level domain.
fn is_permission_value(text: &str) -> bool {
    const LAST: [&str; 16] = [
        "All",
        "Read",
        "ReadWrite",
        "Write",
        "ReadBasic",
        "Send",
        "Shared",
        "OwnedBy",
        "Selected",
        "Create",
        "Delete",
        "Manage",
        "AppFolder",
        "AccessAsUser",
        "ReadOnly",
        "Invite",
    ];
    let word = |w: &str| {
        w.starts_with(|c: char| c.is_ascii_uppercase())
            && w.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    text.split('.').all(word) && text.rsplit('.').next().is_some_and(|last| LAST.contains(&last))
}

/// What an integration that was never connected is for.
pub fn invitation(app: &str) -> String {
    format!(
        "{app} is set up to read the groups of your Microsoft Entra tenant, and needs one sign-in by an administrator to begin."
    )
}

/// What a broken integration means for the people of a tenant.
pub fn consequence(app: &str) -> String {
    format!(
        "Until this works again, {app} does not learn of changes: new people get no access, and people who have left keep theirs."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_texts_become_plain_lines() {
        for (sentence, text, expected) in [
            ("plain", "Contoso GmbH", "Contoso GmbH"),
            ("line ends", "a\r\nBcc: b\u{2028}c", "a Bcc: b c"),
            ("a direction override", "exe.\u{202e}gpj", "exe.gpj"),
            ("isolates and marks", "a\u{2066}b\u{2069}\u{200f}c\u{061c}", "abc"),
            ("invisible", "ad\u{200b}min\u{feff}\u{00ad}\u{e0041}", "admin"),
            ("blanks", "  a \t b  ", "a b"),
        ] {
            assert_eq!(one_line(text, 80), expected, "{sentence}");
        }
        assert_eq!(one_line("abcdef", 3), "abc…");
    }

    #[test]
    fn what_a_tenant_wrote_is_never_a_link() {
        for (text, expected) in [
            ("Group.Read.All", "Group.Read.All"),
            ("Sites.FullControl.All", "Sites.FullControl.All"),
            ("user_impersonation", "user_impersonation"),
            ("https://evil.example/login", "https[:]//evil[.]example/login"),
            ("evil.com", "evil[.]com"),
            ("Evil.Com", "Evil[.]Com"),
            ("www.evil.com/Read.All", "www[.]evil[.]com/Read[.]All"),
            ("help@evil.com", "help[at]evil[.]com"),
            ("Ends here.", "Ends here."),
            ("javascript:alert(1)", "javascript:alert(1)"),
        ] {
            assert_eq!(foreign(text, 200), expected, "{text}");
        }
    }
}
