//! YAML as a tree in which every key and value knows its place, so that all problems of a file can be told at once.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;
use serde_yaml::options::DuplicateKeyPolicy;

/// A value with its place.
#[derive(Debug, Clone)]
pub struct Node {
    /// 1-based; 0 when unknown.
    pub line: u64,
    /// 1-based, in characters; 0 when unknown.
    pub column: u64,
    /// The value.
    pub value: Value,
    /// Where a scalar stands that the parser took for a number or boolean: its text as written is restored from there.
    typed: Option<(usize, usize)>,
}

/// What a node holds. Scalars are kept as written: `007` is a fine password and no number.
#[derive(Debug, Clone)]
pub enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// Any scalar.
    Scalar(String),
    /// A sequence.
    Sequence(Vec<Node>),
    /// A mapping in written order, duplicates included.
    Mapping(Vec<(Node, Node)>),
}

/// A file that is not YAML.
#[derive(Debug)]
pub struct SyntaxError {
    /// 1-based; 0 when unknown.
    pub line: u64,
    /// 1-based; 0 when unknown.
    pub column: u64,
    /// What the parser says.
    pub message: String,
}

/// Parses a document.
///
/// # Errors
/// The text is not YAML, or holds more than one document.
pub fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut options = serde_yaml::Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    // A fleet of a hundred thousand integrations is a legitimate file; aliases stay limited.
    options.budget = None;
    let mut node: Node = serde_yaml::from_str_with_options::<Option<Raw>>(text, options)
        .map(|raw| raw.map_or(Node { line: 1, column: 1, value: Value::Null, typed: None }, |r| r.0))
        .map_err(|error| {
            let place = error.location();
            let message = error.without_snippet().to_string();
            let first = message.lines().next().unwrap_or_default().to_owned();
            SyntaxError { line: place.map_or(0, |l| l.line()), column: place.map_or(0, |l| l.column()), message: first }
        })?;
    restore(&mut node, text);
    Ok(node)
}

/// Puts scalars back as they were written.
fn restore(node: &mut Node, text: &str) {
    let written = node.typed.and_then(|(start, length)| text.get(start..start + length));
    match &mut node.value {
        Value::Scalar(scalar) => {
            if let Some(written) = written {
                written.trim().clone_into(scalar);
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(|item| restore(item, text)),
        Value::Mapping(entries) => entries.iter_mut().for_each(|(key, value)| {
            restore(key, text);
            restore(value, text);
        }),
        Value::Null => {}
    }
}

struct Raw(Node);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Parsed>::deserialize(deserializer)?;
        let (place, span) = (spanned.referenced, spanned.defined.span());
        let bytes = span.byte_offset().zip(span.byte_len()).and_then(|(o, l)| Some((usize::try_from(o).ok()?, usize::try_from(l).ok()?)));
        let typed = if spanned.value.typed { bytes } else { None };
        Ok(Self(Node { line: place.line(), column: place.column(), value: spanned.value.value, typed }))
    }
}

/// A value, and whether the parser took it for a number or boolean.
struct Parsed {
    value: Value,
    typed: bool,
}

impl Parsed {
    fn text(value: Value) -> Self {
        Self { value, typed: false }
    }

    fn typed(value: &impl ToString) -> Self {
        Self { value: Value::Scalar(value.to_string()), typed: true }
    }
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::text(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::text(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        Parsed::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parsed, E> {
        Ok(Parsed::typed(&value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parsed, E> {
        Ok(Parsed::typed(&value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Parsed, E> {
        Ok(Parsed::typed(&value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Parsed, E> {
        Ok(Parsed::typed(&value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Parsed, E> {
        Ok(Parsed::text(Value::Scalar(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Parsed, A::Error> {
        let mut items = Vec::new();
        while let Some(Raw(item)) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Parsed::text(Value::Sequence(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Parsed, A::Error> {
        let mut entries = Vec::new();
        while let Some((Raw(key), Raw(value))) = mapping.next_entry()? {
            entries.push((key, value));
        }
        Ok(Parsed::text(Value::Mapping(entries)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(node: &Node) -> (&str, u64, u64) {
        match &node.value {
            Value::Scalar(text) => (text, node.line, node.column),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_stay_as_written_and_know_their_place() {
        let tree = parse("a: 007\nb: [1.50, 'x', ~, yes, 0x1F]\n").expect("YAML");
        let Value::Mapping(entries) = &tree.value else { panic!("a mapping") };
        assert_eq!(scalar(&entries[0].1), ("007", 1, 4));
        let Value::Sequence(items) = &entries[1].1.value else { panic!("a sequence") };
        assert_eq!(scalar(&items[0]), ("1.50", 2, 5));
        assert_eq!(scalar(&items[1]), ("x", 2, 11));
        assert!(matches!(items[2].value, Value::Null));
        assert_eq!((scalar(&items[3]).0, scalar(&items[4]).0), ("yes", "0x1F"));
    }

    #[test]
    fn duplicates_are_kept_and_errors_have_a_place() {
        let tree = parse("a: 1\na: 2\n").expect("YAML");
        assert!(matches!(&tree.value, Value::Mapping(entries) if entries.len() == 2));
        let error = parse("a:\n  b: [1\n").expect_err("unclosed");
        assert_eq!((error.line, error.column), (2, 6));
        assert!(matches!(parse("").map(|n| n.value), Ok(Value::Null)));
    }
}
