//! Secrets: values that are sent in requests and saved in encrypted columns, and appear nowhere else.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

/// A secret text. `Debug` hides it; there is no `Display`. Its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for a request.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Given in the configuration.
    Inline(Secret),
    /// Kept in a file that is read at every use, because secret files change while the daemon runs.
    File(PathBuf),
}

impl SecretSource {
    /// The current secret: one line. A byte order mark and white space at the ends of a file are removed, because editors and shells add
    /// them.
    ///
    /// # Errors
    /// The file cannot be read, is empty, or contains something that cannot be a secret. No message contains the secret.
    pub fn read(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => {
                let bytes = bytes_of(path)?;
                let named = |fault| SecretError::Malformed { path: path.clone(), fault };
                let text = decoded(&bytes).and_then(one_line).map_err(named)?;
                if text.is_empty() { Err(SecretError::Empty(path.clone())) } else { Ok(Secret::new(text)) }
            }
        }
    }

    /// The current text of several lines, such as PEM: without the byte order mark, otherwise unchanged.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, or is empty.
    pub fn read_text(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => {
                let bytes = bytes_of(path)?;
                let text =
                    decoded(&bytes).map_err(|fault| SecretError::Malformed { path: path.clone(), fault })?;
                if trimmed(text).is_empty() {
                    Err(SecretError::Empty(path.clone()))
                } else {
                    Ok(Secret::new(text))
                }
            }
        }
    }
}

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds only white space.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// What the file holds cannot be a secret.
    #[error("{} {fault}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why not.
        fault: Malformed,
    },
}

/// Why a text cannot be a secret, and what to do about it. The message follows the place where the text was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Two bytes per character: PowerShell's `>` writes this.
    #[error("is UTF-16; save it as UTF-8")]
    Utf16,
    /// Another encoding, or not text.
    #[error("is not UTF-8 text; save it as UTF-8")]
    NotUtf8,
    /// Longer than any secret.
    #[error("is larger than 1 MiB; a secret is one line")]
    TooLong,
    /// A line break inside.
    #[error("holds several lines; a secret is one line")]
    Lines,
    /// An invisible character inside.
    #[error("holds a control character or an invisible character; write the secret again without it")]
    Invisible,
    /// Quotes as in a shell, JSON or an environment file.
    #[error("has quotes around the secret; remove the quotes")]
    Quotes,
    /// Only white space.
    #[error("holds nothing; a refresh token is needed")]
    Nothing,
    /// A token is one word.
    #[error("holds blanks between other characters; a refresh token is one word")]
    Blanks,
    /// Most likely the whole response of a token endpoint.
    #[error("holds JSON; give the value of refresh_token alone, without its quotes")]
    Json,
    /// The name of a field or variable before the value.
    #[error("has a name before the token, such as refresh_token=; give the value alone")]
    Named,
    /// A JSON Web Token.
    #[error(
        "holds an access token or id token (a JSON Web Token); give the refresh_token of the same response"
    )]
    AccessToken,
}

/// A secret or certificate has a few kilobytes. The limit keeps a device or a log file, named by mistake, from filling the memory.
const MOST: u64 = 1024 * 1024;

/// Opening a pipe would block until somebody writes, and a device may never end. A missing file is not an error here.
pub(crate) fn only_regular(path: &Path) -> std::io::Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(std::io::Error::other("it is not a regular file")),
        _ => Ok(()),
    }
}

/// The bytes of a file that contains a secret or a certificate.
///
/// # Errors
/// The file cannot be read, or is larger than any such file.
pub(crate) fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    bytes_of(path)
}

fn bytes_of(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let failed = |source| SecretError::Read { path: path.to_owned(), source };
    only_regular(path).map_err(failed)?;
    let file = std::fs::File::open(path).map_err(failed)?;
    // Room for the whole file at once: a buffer that grows leaves copies behind.
    let size = file.metadata().map_or(0, |m| m.len()).min(MOST);
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 2));
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST {
        return Err(SecretError::Malformed { path: path.to_owned(), fault: Malformed::TooLong });
    }
    Ok(bytes)
}

/// The text of a file, without the byte order mark. UTF-16 is recognised by its byte order mark or, without one, by the zero bytes beside
/// ASCII characters (Unicode, section 23.8).
pub(crate) fn decoded(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.starts_with(&[0xFF, 0xFE])
        || bytes.starts_with(&[0xFE, 0xFF])
        || bytes.iter().take(4).any(|b| *b == 0)
    {
        return Err(Malformed::Utf16);
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|_| Malformed::NotUtf8)
}

/// Invisible characters that no secret has: byte order marks, direction marks, and marks where a line may break.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

/// The text without white space and invisible characters at its ends, which editors, shells and web pages leave there.
pub(crate) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c))
}

/// A secret from a file or variable: white space at the ends is removed, surrounding quotes and invisible characters are an error. White
/// space inside stays, because pass phrases have it. An empty text stays empty.
pub(crate) fn one_line(text: &str) -> Result<&str, Malformed> {
    let text = trimmed(text);
    visible(text)?;
    let mut ends = text.chars();
    let quotes = [
        ('"', '"'),
        ('\'', '\''),
        ('`', '`'),
        ('\u{201C}', '\u{201D}'),
        ('\u{201E}', '\u{201C}'),
        ('\u{2018}', '\u{2019}'),
    ];
    match (ends.next(), ends.next_back()) {
        (Some(first), Some(last)) if quotes.contains(&(first, last)) => Err(Malformed::Quotes),
        _ => Ok(text),
    }
}

/// Checks a secret given in the configuration: its white space and quotes are intended, because YAML has its own. Line breaks and invisible
/// characters are an error.
pub(crate) fn visible(text: &str) -> Result<(), Malformed> {
    if text.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) {
        return Err(Malformed::Lines);
    }
    if text.chars().any(is_invisible) { Err(Malformed::Invisible) } else { Ok(()) }
}

/// Parses a refresh token that somebody supplied. The error never contains the token.
///
/// # Errors
/// It is something else, such as an access token: Entra would reject it, and the customer would be asked to fix what is our mistake.
pub fn refresh_token(bytes: &[u8]) -> Result<Secret, Malformed> {
    let text = trimmed(decoded(bytes)?);
    if text.is_empty() {
        return Err(Malformed::Nothing);
    }
    // Without its quotes, so that a quoted token gives the same error.
    let bare = text.trim_matches(['"', '\'']);
    if bare.starts_with(['{', '[']) {
        return Err(Malformed::Json);
    }
    // A name before the value: a form field, a variable, or a line of YAML.
    let has_name = |mark: char| {
        bare.split_once(mark).is_some_and(|(name, _)| name.trim().to_ascii_lowercase().ends_with("token"))
    };
    if has_name('=') || has_name(':') {
        return Err(Malformed::Named);
    }
    if is_jwt(bare.strip_prefix("Bearer ").unwrap_or(bare)) {
        return Err(Malformed::AccessToken);
    }
    let text = one_line(text)?;
    if text.contains(char::is_whitespace) { Err(Malformed::Blanks) } else { Ok(Secret::new(text)) }
}

/// The refresh token that a file holds.
///
/// # Errors
/// The file cannot be read, or contains something else.
pub fn read_refresh_token(path: &Path) -> Result<Secret, SecretError> {
    refresh_token(&bytes_of(path)?).map_err(|fault| match fault {
        Malformed::Nothing => SecretError::Empty(path.to_owned()),
        fault => SecretError::Malformed { path: path.to_owned(), fault },
    })
}

/// Whether a text is a JSON Web Token (RFC 7519): three parts (RFC 7515 section 7.1) or five (RFC 7516 section 7.1). Entra's refresh tokens
/// have dots, too, but begin with a one-digit version (`0.AX….AgAB…`), which is not a header.
fn is_jwt(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let base64url = |part: &&str| part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    let Some(header) = parts.first().filter(|_| parts.len() > 1) else { return false };
    let is_header = URL_SAFE_NO_PAD.decode(header).is_ok_and(|json| json.starts_with(b"{"));
    is_header || (matches!(parts.len(), 3 | 5) && header.len() > 2 && parts.iter().all(base64url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_text() {
        let source = SecretSource::Inline(Secret::new("hunter2"));
        assert!(!format!("{source:?}").contains("hunter2"));
    }

    fn utf16(text: &str, mark: bool) -> Vec<u8> {
        let mark = if mark { vec![0xFF, 0xFE] } else { Vec::new() };
        mark.into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
    }

    /// Files as editors, shells and web pages leave them.
    #[test]
    fn secret_files_are_read_or_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let text = |t: &str| t.as_bytes().to_vec();
        let cases: Vec<(&str, Vec<u8>, Result<&str, Malformed>)> = vec![
            ("a plain one", text("hunter2"), Ok("hunter2")),
            ("a line end", text("hunter2\n"), Ok("hunter2")),
            ("a Windows line end", text("hunter2\r\n"), Ok("hunter2")),
            ("several line ends", text("\n\nhunter2\n\n"), Ok("hunter2")),
            ("a byte order mark", text("\u{FEFF}hunter2"), Ok("hunter2")),
            ("a byte order mark and a line end", text("\u{FEFF}hunter2\r\n"), Ok("hunter2")),
            ("two byte order marks", text("\u{FEFF}\u{FEFF}hunter2"), Ok("hunter2")),
            ("blanks and tabs at the ends", text(" \thunter2\t "), Ok("hunter2")),
            ("no-break spaces at the ends", text("\u{A0}hunter2\u{A0}"), Ok("hunter2")),
            ("zero-width spaces at the ends", text("\u{200B}hunter2\u{200B}"), Ok("hunter2")),
            ("a zero byte at the end", text("hunter2\0"), Ok("hunter2")),
            ("blanks inside", text("correct horse battery"), Ok("correct horse battery")),
            ("a quote inside", text("hun\"ter2"), Ok("hun\"ter2")),
            ("a quote at the beginning alone", text("\"hunter2"), Ok("\"hunter2")),
            ("letters beyond ASCII", text("schlüssel"), Ok("schlüssel")),
            ("double quotes around", text("\"hunter2\""), Err(Malformed::Quotes)),
            ("double quotes around and a line end", text("\"hunter2\"\n"), Err(Malformed::Quotes)),
            ("single quotes around", text("'hunter2'"), Err(Malformed::Quotes)),
            ("typographic quotes around", text("\u{201C}hunter2\u{201D}"), Err(Malformed::Quotes)),
            ("two lines", text("hunter2\nhunter3"), Err(Malformed::Lines)),
            ("two lines with the line end of old Macs", text("hunter2\rhunter3"), Err(Malformed::Lines)),
            ("a tab inside", text("hunter2\thunter3"), Err(Malformed::Invisible)),
            ("a zero-width space inside", text("hunter\u{200B}2"), Err(Malformed::Invisible)),
            ("an escape inside", text("hunter\u{1b}2"), Err(Malformed::Invisible)),
            ("UTF-16 with its mark", utf16("hunter2", true), Err(Malformed::Utf16)),
            ("UTF-16 without its mark", utf16("hunter2", false), Err(Malformed::Utf16)),
            ("UTF-16, big end first", vec![0xFE, 0xFF, 0, b'h', 0, b'i'], Err(Malformed::Utf16)),
            ("Latin-1", vec![b's', b'c', b'h', 0xFC], Err(Malformed::NotUtf8)),
            ("a log file", vec![b'x'; 1024 * 1024 + 1], Err(Malformed::TooLong)),
        ];
        for (what, bytes, expected) in cases {
            std::fs::write(&path, bytes).expect("written");
            let read = SecretSource::File(path.clone()).read();
            match (read, expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.expose(), expected, "{what}"),
                (Err(SecretError::Malformed { path: named, fault }), Err(expected)) => {
                    assert_eq!((&named, fault), (&path, expected), "{what}");
                    let message = SecretError::Malformed { path: named, fault }.to_string();
                    assert!(
                        message.contains(&path.display().to_string()) && !message.contains("hunter"),
                        "{what}: {message}"
                    );
                }
                (other, _) => panic!("{what}: {other:?}"),
            }
        }
        for nothing in ["", "\n", " \t\r\n", "\u{FEFF}", "\u{FEFF}\r\n", "\u{A0}"] {
            std::fs::write(&path, nothing).expect("written");
            assert!(
                matches!(SecretSource::File(path.clone()).read(), Err(SecretError::Empty(_))),
                "{nothing:?}"
            );
            assert!(
                matches!(SecretSource::File(path.clone()).read_text(), Err(SecretError::Empty(_))),
                "{nothing:?}"
            );
        }
    }

    #[test]
    fn texts_of_several_lines_keep_their_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key.pem");
        std::fs::write(&path, "\u{FEFF}-----BEGIN X-----\r\nAA==\r\n-----END X-----\r\n").expect("written");
        let read = SecretSource::File(path.clone()).read_text().expect("text");
        assert_eq!(read.expose(), "-----BEGIN X-----\r\nAA==\r\n-----END X-----\r\n");
        std::fs::write(&path, utf16("-----BEGIN X-----", true)).expect("written");
        let error = SecretSource::File(path).read_text().expect_err("UTF-16");
        assert!(error.to_string().ends_with("key.pem is UTF-16; save it as UTF-8"), "{error}");
    }

    /// What people paste where a refresh token is asked for.
    #[test]
    fn only_possible_refresh_tokens_are_accepted() {
        let jwt = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiIwMDAwMDAwMyJ9.c2lnbmF0dXJl";
        let cases: &[(&str, &str, Result<&str, Malformed>)] = &[
            ("an opaque token", "OAQABAAEAAAD--DLA3VO7QrddgJg7Wevr", Ok("OAQABAAEAAAD--DLA3VO7QrddgJg7Wevr")),
            (
                "a current token with its three parts",
                "0.AXEA-hSk.AgABAwEAAAAmoFfG_x",
                Ok("0.AXEA-hSk.AgABAwEAAAAmoFfG_x"),
            ),
            (
                "the same with the next version",
                "1.AXEA-hSk.AgABAwEAAAAmoFfG_x",
                Ok("1.AXEA-hSk.AgABAwEAAAAmoFfG_x"),
            ),
            ("a byte order mark and a line end", "\u{FEFF}0.AXEA\r\n", Ok("0.AXEA")),
            ("blanks at the ends", " \t0.AXEA\u{A0} ", Ok("0.AXEA")),
            ("nothing", "", Err(Malformed::Nothing)),
            ("blanks alone", " \r\n", Err(Malformed::Nothing)),
            ("an access token", jwt, Err(Malformed::AccessToken)),
            ("an access token in quotes", "\"eyJhIjoxfQ.eyJhIjoxfQ.AA\"", Err(Malformed::AccessToken)),
            (
                "an access token as a header has it",
                "Bearer eyJhIjoxfQ.eyJhIjoxfQ.AA",
                Err(Malformed::AccessToken),
            ),
            (
                "an access token without signature",
                "eyJhbGciOiJub25lIn0.eyJhIjoxfQ.",
                Err(Malformed::AccessToken),
            ),
            ("an encrypted token", "eyJhbGciOiJkaXIifQ..aXY.Y2lwaGVy.dGFn", Err(Malformed::AccessToken)),
            ("three dotted parts of base64url", "aGVhZGVy.cGF5bG9hZA.c2ln", Err(Malformed::AccessToken)),
            ("a response of the token endpoint", "{\"refresh_token\": \"0.AXEA\"}", Err(Malformed::Json)),
            ("the same on several lines", "{\n  \"refresh_token\": \"0.AXEA\"\n}", Err(Malformed::Json)),
            ("a list", "[\"0.AXEA\"]", Err(Malformed::Json)),
            ("a form field", "refresh_token=0.AXEA", Err(Malformed::Named)),
            ("a shell variable", "export REFRESH_TOKEN=0.AXEA", Err(Malformed::Named)),
            ("quotes around", "\"0.AXEA\"", Err(Malformed::Quotes)),
            ("single quotes around", "'0.AXEA'", Err(Malformed::Quotes)),
            ("two tokens", "0.AXEA\n0.AXEB", Err(Malformed::Lines)),
            ("a header before it", "refresh_token: 0.AXEA", Err(Malformed::Named)),
            ("a control character", "0.AX\u{7}EA", Err(Malformed::Invisible)),
            ("a zero-width space inside", "0.AX\u{200B}EA", Err(Malformed::Invisible)),
        ];
        for (what, text, expected) in cases {
            let read = refresh_token(text.as_bytes());
            assert_eq!(read.as_ref().map(Secret::expose), expected.as_ref().copied(), "{what}");
            assert!(read.err().is_none_or(|fault| !fault.to_string().contains("AXEA")), "{what}");
        }
        assert_eq!(refresh_token(&utf16("0.AXEA", true)).err(), Some(Malformed::Utf16));
        assert_eq!(refresh_token(&[b'0', b'.', 0xE4]).err(), Some(Malformed::NotUtf8));
    }
}
