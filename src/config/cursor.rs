//! Walking the tree: every read records the problems it finds and continues, so that one run reports them all.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::{Diagnostics, Problem};
use super::tree::{Node, Value};
use super::values::{expand, nearest, parse_duration, parse_guid};
use crate::secret::{self, Malformed, Secret, SecretError, SecretSource};

/// A value in a file, with its position and key path.
#[derive(Clone)]
pub struct Cursor<'n, 'e> {
    /// The value.
    pub node: &'n Node,
    /// Its key path.
    pub path: String,
    /// The file that holds it.
    pub file: &'n Path,
    findings: &'n Diagnostics<'e>,
}

impl<'n, 'e> Cursor<'n, 'e> {
    /// The root of a file.
    pub fn root(node: &'n Node, file: &'n Path, findings: &'n Diagnostics<'e>) -> Self {
        Self { node, path: String::new(), file, findings }
    }

    fn child(&self, node: &'n Node, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { node, path, file: self.file, findings: self.findings }
    }

    fn note(&self, message: impl Into<String>) -> Problem {
        Problem {
            file: self.file.display().to_string(),
            line: self.node.line,
            column: self.node.column,
            path: self.path.clone(),
            message: message.into(),
        }
    }

    /// Records a problem at this value.
    pub fn problem(&self, message: impl Into<String>) {
        self.findings.problem(self.note(message));
    }

    /// Records a warning at this value.
    pub fn warn(&self, message: impl Into<String>) {
        self.findings.warnings.borrow_mut().push(self.note(message));
    }

    /// A scalar with environment variables expanded.
    pub fn text(&self) -> Option<String> {
        match &self.node.value {
            Value::Scalar(raw) => {
                match self.findings.environment.map_or_else(|| Ok(raw.clone()), |e| expand(raw, e)) {
                    Ok(text) => Some(text),
                    Err(message) => {
                        self.problem(message);
                        None
                    }
                }
            }
            Value::Null => {
                self.problem("has no value; give one or remove the key");
                None
            }
            Value::Sequence(_) | Value::Mapping(_) => {
                self.problem("must be a single value");
                None
            }
        }
    }

    /// The scalar as written in the file, quoted and shortened. Environment variables, which may be secrets, are not expanded, and the user
    /// information of a URL is hidden, whether or not the URL has its slashes.
    pub fn written(&self) -> String {
        let Value::Scalar(raw) = &self.node.value else { return "this".to_owned() };
        let hidden = match raw.find(':').zip(raw.rfind('@')) {
            Some((colon, at)) if colon < at => {
                let slashes = if raw[colon..].starts_with("://") { "//" } else { "" };
                format!("{}{slashes}{}{}", &raw[..=colon], super::HIDDEN, &raw[at..])
            }
            _ => raw.clone(),
        };
        let short: String = hidden.chars().take(80).collect();
        if short.len() < hidden.len() { format!("{short:?}…") } else { format!("{short:?}") }
    }

    /// A text that is not empty.
    pub fn non_empty(&self) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            self.problem("is empty; give a value or remove the key");
            return None;
        }
        Some(text)
    }

    /// A text that a parser accepts; otherwise the hint says what is expected. The problem quotes the text, so this is not for secrets.
    pub fn parsed<T>(&self, hint: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        self.checked(|text| parse(text).ok_or(hint))
    }

    /// Like [`Self::parsed`], where the parser's error says what is wrong.
    pub fn checked<T, E: std::fmt::Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match parse(&self.text()?) {
            Ok(value) => Some(value),
            Err(error) => {
                // The value may be right except for the line break of a block scalar.
                let block = matches!(&self.node.value, Value::Scalar(raw) if raw.ends_with('\n'));
                let hint = if block { "; it ends with a line break: write |- instead of |" } else { "" };
                self.problem(format!("{} {error}{hint}", self.written()));
                None
            }
        }
    }

    /// An inline secret. One from the environment is read like one from a file, because it may have a trailing line break or quotes. One
    /// that is written in the configuration is taken literally, but must not contain line breaks.
    fn inline_secret(&self) -> Option<SecretSource> {
        let text = self.non_empty()?;
        let from_environment = matches!(&self.node.value, Value::Scalar(raw) if raw.contains("${"));
        let checked = if from_environment {
            secret::one_line(&text)
        } else {
            secret::visible(&text).map(|()| text.as_str())
        };
        match checked {
            Ok("") => {
                self.problem("is empty; give a value or remove the key");
                None
            }
            Ok(text) => Some(SecretSource::Inline(Secret::new(text))),
            Err(Malformed::Lines) if secret::visible(text.trim_end_matches('\n')).is_ok() => {
                self.problem("ends with a line break; write |- instead of | (or >-), or put the value on the line of its key");
                None
            }
            Err(fault) => {
                self.problem(fault.to_string());
                None
            }
        }
    }

    /// A GUID.
    pub fn guid(&self) -> Option<String> {
        self.parsed("is not a GUID; write it like 00000000-0000-0000-0000-000000000000", parse_guid)
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        self.parsed("must be true or false", |t| match t {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        })
    }

    /// A whole number within bounds.
    pub fn integer(&self, least: u32, most: u32) -> Option<u32> {
        let hint = format!("must be a whole number from {least} to {most}");
        self.parsed(&hint, |t| t.parse().ok().filter(|n| (least..=most).contains(n)))
    }

    /// A duration above zero.
    pub fn duration(&self) -> Option<Duration> {
        let hint = "is not a duration above zero; write it like 300ms, 30s, 5m, 1h or 1d";
        self.checked(|t| parse_duration(t).filter(|d| !d.is_zero()).ok_or(hint).and_then(at_most_a_century))
    }

    /// A duration where zero means off.
    pub fn duration_or_zero(&self) -> Option<Duration> {
        let hint = "is not a duration; write it like 300ms, 30s, 5m, 1h or 1d, or 0 for off";
        self.checked(|t| parse_duration(t).ok_or(hint).and_then(at_most_a_century))
    }

    /// One of some words.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let meant =
            nearest(&text, all.iter().copied()).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
        self.problem(format!("{} is unknown; use one of: {}{meant}", self.written(), all.join(", ")));
        None
    }

    /// A path, relative to the file that names it.
    pub fn path(&self) -> Option<PathBuf> {
        let text = self.non_empty()?;
        if text.contains(['\n', '\r', '\0']) {
            self.problem("contains a line break, which no path has; write |- instead of |");
            return None;
        }
        Some(self.file.parent().unwrap_or(Path::new("")).join(text))
    }

    /// A file that exists and can be read.
    pub fn readable_file(&self) -> Option<PathBuf> {
        let path = self.path()?;
        match secret::only_regular(&path).and_then(|()| std::fs::read(&path)) {
            Ok(_) => Some(path),
            Err(error) => {
                self.problem(format!(
                    "cannot read {}: {error}; create the file or correct the path",
                    path.display()
                ));
                None
            }
        }
    }

    /// The items of a sequence.
    pub fn items(&self) -> Vec<Self> {
        match &self.node.value {
            Value::Sequence(items) => {
                let at = |(index, node)| Self {
                    node,
                    path: format!("{}[{index}]", self.path),
                    file: self.file,
                    findings: self.findings,
                };
                items.iter().enumerate().map(at).collect()
            }
            Value::Null => Vec::new(),
            Value::Scalar(_) | Value::Mapping(_) => {
                self.problem("must be a list; write it like [a, b] or with a dash before each item");
                Vec::new()
            }
        }
    }

    /// A mapping whose keys are names chosen by the user.
    pub fn named(&self) -> Vec<(String, Self)> {
        let entries = self.entries("must be a mapping from names to values");
        entries.into_iter().map(|(key, at, _)| (key.to_owned(), at)).collect()
    }

    /// The entries of a mapping: name, value, and the key's node.
    fn entries(&self, otherwise: &str) -> Vec<(&'n str, Self, &'n Node)> {
        let Value::Mapping(entries) = &self.node.value else {
            if !matches!(self.node.value, Value::Null) {
                self.problem(otherwise);
            }
            return Vec::new();
        };
        let mut seen: Vec<(&str, Self, &Node)> = Vec::with_capacity(entries.len());
        let mut places: HashMap<&str, u64> = HashMap::with_capacity(entries.len());
        for (key, value) in entries {
            let Value::Scalar(name) = &key.value else {
                Self { node: key, ..self.clone() }.problem("keys must be plain words");
                continue;
            };
            if let Some(line) = places.insert(name, key.line) {
                let message = format!("duplicate key; it is already given on line {line}");
                Self { node: key, ..self.child(value, name) }.problem(message);
                continue;
            }
            seen.push((name, self.child(value, name), key));
        }
        seen
    }

    /// A mapping with known keys.
    pub fn section(&self) -> Section<'n, 'e> {
        let otherwise = "must be a mapping with keys; see the example configuration";
        Section { at: self.clone(), entries: self.entries(otherwise), asked: Vec::new() }
    }
}

/// Limits durations to 100 years, because sums with longer ones could overflow.
fn at_most_a_century(duration: Duration) -> Result<Duration, &'static str> {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    if duration <= CENTURY { Ok(duration) } else { Err("is longer than 100y; write a shorter one") }
}

/// A mapping with known keys: a key that is never asked for is unknown.
pub struct Section<'n, 'e> {
    /// The mapping itself.
    pub at: Cursor<'n, 'e>,
    entries: Vec<(&'n str, Cursor<'n, 'e>, &'n Node)>,
    asked: Vec<&'static str>,
}

impl<'n, 'e> Section<'n, 'e> {
    /// The value of a key.
    pub fn get(&mut self, key: &'static str) -> Option<Cursor<'n, 'e>> {
        self.asked.push(key);
        self.entries.iter().find(|(name, ..)| *name == key).map(|(_, at, _)| at.clone())
    }

    /// The value of a key that must be there.
    pub fn required(&mut self, key: &'static str) -> Option<Cursor<'n, 'e>> {
        let found = self.get(key);
        if found.is_none() {
            self.at.problem(format!("{key} is missing; it is required"));
        }
        found
    }

    /// A value, or its default when the key is absent or invalid; an invalid value is recorded as a problem.
    pub fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Cursor<'n, 'e>) -> Option<T>,
    ) -> T {
        self.get(key).and_then(|at| read(&at)).unwrap_or(default)
    }

    /// A secret given inline or in a file, never both. `None` when neither is given or the secret is invalid.
    pub fn secret(&mut self, inline: &'static str, file: &'static str) -> Option<SecretSource> {
        let (value, path) = (self.get(inline), self.get(file));
        match (value, path) {
            (Some(_), Some(at)) => {
                at.problem(format!("is given as well as {inline}; keep one of the two"));
                None
            }
            (Some(at), None) => at.inline_secret(),
            (None, Some(at)) => {
                let source = SecretSource::File(at.path()?);
                match source.read() {
                    Ok(_) => Some(source),
                    Err(error @ SecretError::Malformed { .. }) => {
                        at.problem(error.to_string());
                        None
                    }
                    Err(error) => {
                        at.problem(format!("{error}; put the secret into that file or correct the path"));
                        None
                    }
                }
            }
            (None, None) => None,
        }
    }

    /// Whether a key is there, without reading it.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, ..)| *name == key)
    }

    /// Records a problem for every unknown key.
    pub fn finish(self) {
        for (name, at, key) in &self.entries {
            if !self.asked.contains(name) {
                let meant = nearest(name, self.asked.iter().copied());
                let hint = match meant {
                    Some(key) => format!("; did you mean {key}?"),
                    None => format!("; known here: {}", self.asked.join(", ")),
                };
                Cursor { node: key, ..at.clone() }.problem(format!("unknown key{hint}"));
            }
        }
    }
}
