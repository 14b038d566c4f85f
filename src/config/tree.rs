//! YAML as a tree in which every key and value has its position, so that all problems of a file can be reported at once.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_yaml::{Error as YamlError, Options, Spanned};

/// A value with its position.
#[derive(Debug, Clone)]
pub struct Node {
    /// 1-based; 0 when unknown.
    pub line: u64,
    /// 1-based, in characters; 0 when unknown.
    pub column: u64,
    /// The value.
    pub value: Value,
    /// Byte offset and length of a scalar that the parser took for a number or boolean; its original text is restored from there.
    typed: Option<(usize, usize)>,
}

/// What a node contains. Scalars are kept as written: `007` may be a password and must not become a number.
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
    /// What is wrong.
    pub message: String,
}

/// How much aliases and merge keys may add to a file, in bytes. Without a limit, a few lines can expand to terabytes.
const EXPANSION: usize = 64 * 1024 * 1024;

/// The highest memory cost of a value while it is read, in bytes, besides its text: an event of the parser and a [`Node`].
const NODE: usize = 256;

/// The highest nesting depth. The functions that walk the tree are recursive, and no real configuration is deeper.
const DEPTH: usize = 24;

/// Parses a document.
///
/// # Errors
/// The text is not YAML, contains more than one document, is nested too deeply, or expands to too much.
pub fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut node: Node = serde_yaml::from_str_with_options::<Option<Raw>>(text, options(text.len()))
        .map(|raw| raw.map_or(Node { line: 1, column: 1, value: Value::Null, typed: None }, |r| r.0))
        .map_err(|error| {
            let place = error.location();
            let (line, column) = (place.map_or(0, |l| l.line()), place.map_or(0, |l| l.column()));
            SyntaxError { line, column, message: plainly(error.without_snippet()) }
        })?;
    restore(&mut node, text);
    Ok(node)
}

/// The parser's options for a file of `length` bytes. The written size is not limited, because a fleet of a hundred thousand integrations
/// is a legitimate file; the expanded size is. The expansion of defaults that each integration merges grows with the file, so the limits do,
/// too.
fn options(length: usize) -> Options {
    let values = EXPANSION / NODE + length / 4;
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    // Scalars are kept as written; the reader of the value rejects `.inf` and reports its position.
    options.non_finite_float_policy = NonFiniteFloatPolicy::PassThrough;
    options.alias_limits.max_total_replayed_events = values;
    let mut budget = serde_yaml::Budget::default();
    budget.max_total_scalar_bytes = length + EXPANSION;
    // An anchor that contains another one keeps its own copy of everything inside.
    budget.max_recorded_anchor_events = values;
    budget.max_recorded_anchor_bytes = length + EXPANSION;
    budget.max_depth = DEPTH;
    budget.max_events = usize::MAX;
    budget.max_nodes = usize::MAX;
    budget.max_aliases = usize::MAX;
    budget.max_anchors = usize::MAX;
    budget.max_merge_keys = usize::MAX;
    budget.enforce_alias_anchor_ratio = false;
    options.budget = Some(budget);
    options
}

/// What is wrong, in plain words and without values from the file, which may be secrets.
fn plainly(error: &YamlError) -> String {
    use serde_yaml::budget::BudgetBreach;
    let plain = match error {
        YamlError::AliasError { error, .. } | YamlError::WithSnippet { error, .. } => return plainly(error),
        YamlError::MultipleDocuments { .. } => {
            "it contains more than one YAML document; keep one, and remove the line --- that begins the next"
                .to_owned()
        }
        YamlError::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("lists and mappings are nested more than {DEPTH} deep")
        }
        YamlError::Budget { .. }
        | YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasReplayCounterOverflow { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. } => {
            format!(
                "aliases and merge keys (*name, <<) stand for more than {} MB; write fewer of them",
                EXPANSION / 1024 / 1024
            )
        }
        YamlError::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias (*name) is inside the value that it refers to".to_owned()
        }
        YamlError::UnknownAnchor { .. } => {
            "an alias (*name) refers to an anchor (&name) that is not defined above it".to_owned()
        }
        YamlError::MergeValueNotMapOrSeqOfMaps { .. } => {
            "<< takes a mapping, or a list of mappings".to_owned()
        }
        YamlError::InvalidBinaryBase64 { .. } | YamlError::BinaryNotUtf8 { .. } => {
            "a value tagged !!binary is not base64 of a text; remove the tag".to_owned()
        }
        YamlError::InvalidScalar { .. } | YamlError::TaggedScalarCannotDeserializeIntoString { .. } => {
            "a value is not of the kind that its tag (!!name) says; remove the tag".to_owned()
        }
        // The parser's messages for these describe the grammar and quote no values.
        YamlError::ExternalMessage { .. }
        | YamlError::Eof { .. }
        | YamlError::Unexpected { .. }
        | YamlError::IndentationError { .. } => error.to_string(),
        _ => "a value cannot be read; write it in quotes".to_owned(),
    };
    plain.lines().next().unwrap_or_default().to_owned()
}

/// Restores scalars as they were written.
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
        let bytes = span
            .byte_offset()
            .zip(span.byte_len())
            .and_then(|(o, l)| Some((usize::try_from(o).ok()?, usize::try_from(l).ok()?)));
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
    fn scalars_keep_their_text_and_position() {
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
    fn duplicates_are_kept_and_errors_have_a_position() {
        let tree = parse("a: 1\na: 2\n").expect("YAML");
        assert!(matches!(&tree.value, Value::Mapping(entries) if entries.len() == 2));
        let error = parse("a:\n  b: [1\n").expect_err("unclosed");
        assert_eq!((error.line, error.column), (2, 6));
        assert!(matches!(parse("").map(|n| n.value), Ok(Value::Null)));
    }

    /// Numbers that do not fit into 64 bits and texts that only look like numbers.
    #[test]
    fn unusual_numbers_keep_their_text() {
        for text in [".inf", "-.inf", ".nan", "1e999", "99999999999999999999999999", "0o17", "1_000", "+5"] {
            let tree = parse(&format!("a: {text}\n")).expect("YAML");
            let Value::Mapping(entries) = &tree.value else { panic!("a mapping") };
            assert_eq!(scalar(&entries[0].1), (text, 1, 4));
        }
    }

    #[test]
    fn errors_are_plain_and_quote_no_values() {
        let deep = format!("{}hunter", "- ".repeat(70));
        for (text, line, expected) in [
            ("a: hunter\n---\nb: hunter\n", 2, "more than one YAML document"),
            ("a: *hunter\n", 1, "anchor"),
            ("a: {<<: hunter}\n", 1, "<< takes a mapping"),
            ("a: !!int hunter\n", 1, "remove the tag"),
            ("a: !!bool hunter\n", 1, "remove the tag"),
            ("a: !!binary hunter-\n", 1, "remove the tag"),
            ("a: \"hunter\n", 1, ""),
            ("a: hunter\n b: hunter: hunter\n", 2, ""),
            (deep.as_str(), 1, "nested more than 24 deep"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(
                error.message.contains(expected) && !error.message.contains("hunter"),
                "{text}: {}",
                error.message
            );
            assert!(error.line >= line && error.column > 0, "{text}: {}:{}", error.line, error.column);
        }
    }

    /// Files of a few kilobytes that expand to gigabytes, each in another way.
    #[test]
    fn files_that_expand_too_much_are_rejected() {
        let scalar = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(10_000));
        let escaped = format!("a: &a \"{}\"\nb: [{}]\n", "\\u00e4".repeat(20_000), "*a, ".repeat(10_000));
        let nested = |join: &str| {
            let mut text = "a0: &a0 {k: hunter}\n".to_owned();
            for level in 1..12 {
                let previous = vec![format!("*a{}", level - 1); 10].join(", ");
                text.push_str(&format!("a{level}: &a{level} {}\n", join.replace("ALIASES", &previous)));
            }
            text
        };
        let keys: String = (0..2000).map(|n| format!("k{n}: v, ")).collect();
        let merged = format!("a: &a {{{keys}}}\nb: {{<<: [{}]}}\n", vec!["*a"; 2000].join(", "));
        // Every open anchor keeps a copy of everything merged inside it.
        let open: String = (0..20).map(|n| format!("x{n}: &x{n} {{")).collect();
        let copied =
            format!("a: &a {{{keys}}}\n{open}<<: [{}]{}\n", vec!["*a"; 50].join(", "), "}".repeat(20));
        for (what, text) in [
            ("one long scalar", scalar),
            ("one long scalar with escapes", escaped),
            ("lists of lists", nested("[ALIASES]")),
            ("merged lists of mappings", nested("{l: [ALIASES]}")),
            ("one mapping merged many times", merged),
            ("anchors around anchors", copied),
        ] {
            let error = parse(&text).expect_err(what);
            assert!(error.message.contains("more than 64 MB"), "{what}: {}", error.message);
            assert!(error.line > 0, "{what}");
        }
    }

    /// Defaults that every integration of a large fleet merges.
    #[test]
    fn shared_defaults_of_a_large_fleet_are_accepted() {
        let mut text =
            "d: &d {app: a, admins: [it@example.com], groups: {minimum: 1}, checks: [consent]}\nl:\n"
                .to_owned();
        for n in 0..30_000 {
            text.push_str(&format!(
                "  - {{<<: *d, name: customer-{n}, tenant_id: contoso{n}.onmicrosoft.com}}\n"
            ));
        }
        let tree = parse(&text).expect("a file");
        let Value::Mapping(entries) = &tree.value else { panic!("a mapping") };
        let Value::Sequence(items) = &entries[1].1.value else { panic!("a list") };
        let Value::Mapping(last) = &items[29_999].value else { panic!("a mapping") };
        assert_eq!((items.len(), last.len()), (30_000, 6));
    }
}
