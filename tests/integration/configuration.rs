//! A configuration whose keys a test changes by their paths. A path that is not there ends the test instead
//! of changing nothing.

use std::path::Path;

use consentry::demo;
use entra_sim::Simulator;
use serde_json::Value;

use crate::world::replace;

/// Paths are dotted: `probe.interval`, `apps.sequr.display_name`, `integrations.contoso.admins`. An element
/// of a list is chosen by its `name`.
#[derive(Clone)]
pub struct Configuration(Value);

impl Configuration {
    pub fn parse(text: &str) -> Self {
        Self(value(text))
    }

    /// The demo's; `probe` holds the lines of that section.
    pub fn demo(simulator: &Simulator, public_url: &str, probe: &str) -> Self {
        Self::parse(&demo::configuration(simulator, public_url, probe))
    }

    /// Gives a key that is there another value, which is YAML.
    pub fn set(&mut self, path: &str, yaml: &str) -> &mut Self {
        *self.find(path) = value(yaml);
        self
    }

    /// Adds a key that is not there yet, or a named element to a list.
    pub fn add(&mut self, path: &str, yaml: &str) -> &mut Self {
        let (parent, key) = self.parent(path);
        assert!(child(parent, key).is_none(), "{path} is in the configuration already");
        let mut added = value(yaml);
        match parent {
            Value::Object(keys) => drop(keys.insert(key.to_owned(), added)),
            Value::Array(elements) => {
                added["name"] = key.into();
                elements.push(added);
            }
            _ => panic!("{path}: there are no keys"),
        }
        self
    }

    /// Removes a key that is there, or a named element of a list.
    pub fn remove(&mut self, path: &str) -> &mut Self {
        let (parent, key) = self.parent(path);
        assert!(child(parent, key).is_some(), "{path} is not in the configuration");
        match parent {
            Value::Object(keys) => drop(keys.remove(key)),
            Value::Array(elements) => elements.retain(|e| e["name"] != key),
            _ => panic!("{path}: there are no keys"),
        }
        self
    }

    /// Keeps these integrations and no others.
    pub fn only(&mut self, names: &[&str]) -> &mut Self {
        for name in names {
            self.find(&format!("integrations.{name}"));
        }
        self.list("integrations").retain(|i| names.iter().any(|name| i["name"] == *name));
        self
    }

    /// Appends many elements to a list.
    pub fn extend(&mut self, path: &str, elements: impl IntoIterator<Item = Value>) -> &mut Self {
        self.list(path).extend(elements);
        self
    }

    /// The text of an integration file with these integrations.
    pub fn integration_file(&self, names: &[&str]) -> String {
        let mut kept = self.clone();
        kept.only(names);
        json(&kept.0["integrations"])
    }

    /// JSON, which is YAML, too.
    pub fn text(&self) -> String {
        json(&self.0)
    }

    /// Writes it to a file atomically.
    pub fn write(&self, file: &Path) {
        replace(file, &self.text());
    }

    fn list(&mut self, path: &str) -> &mut Vec<Value> {
        self.find(path).as_array_mut().unwrap_or_else(|| panic!("{path} is not a list"))
    }

    fn find(&mut self, path: &str) -> &mut Value {
        let found = path.split('.').try_fold(&mut self.0, child);
        found.unwrap_or_else(|| panic!("{path} is not in the configuration"))
    }

    /// What holds the last key of a path, and that key.
    fn parent<'a>(&mut self, path: &'a str) -> (&mut Value, &'a str) {
        match path.rsplit_once('.') {
            Some((parent, key)) => (self.find(parent), key),
            None => (&mut self.0, path),
        }
    }
}

fn child<'a>(parent: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match parent {
        Value::Object(keys) => keys.get_mut(key),
        Value::Array(elements) => elements.iter_mut().find(|e| e["name"] == key),
        _ => None,
    }
}

fn value(yaml: &str) -> Value {
    serde_yaml::from_str(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"))
}

fn json(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON")
}

fn small() -> Configuration {
    Configuration::parse(
        "probe: {interval: 5m}\nintegrations:\n  - {name: contoso, admins: []}\n  - {name: litware}\n",
    )
}

#[test]
fn keys_are_set_added_and_removed_by_their_paths() {
    let mut changed = small();
    changed
        .set("probe.interval", "1s")
        .set("integrations.contoso.admins", "[it@contoso.example]")
        .add("email", "{send_resolved: false}")
        .add("integrations.northwind", "{app: sequr}")
        .remove("integrations.litware");
    let expected = "probe: {interval: 1s}\nemail: {send_resolved: false}\n\
        integrations: [{name: contoso, admins: [it@contoso.example]}, {app: sequr, name: northwind}]\n";
    assert_eq!(changed.0, Configuration::parse(expected).0);
    assert_eq!(Configuration::parse(&changed.text()).0, changed.0, "what is written is read again");
    assert_eq!(small().only(&[]).0["integrations"], serde_json::json!([]));
}

#[test]
#[should_panic(expected = "probe.intervall is not in the configuration")]
fn a_key_that_is_not_there_is_not_set() {
    small().set("probe.intervall", "1s");
}

#[test]
#[should_panic(expected = "probe.interval is in the configuration already")]
fn a_key_that_is_there_is_not_added() {
    small().add("probe.interval", "1s");
}

#[test]
#[should_panic(expected = "integrations.contosso is not in the configuration")]
fn an_element_that_is_not_there_is_not_removed() {
    small().remove("integrations.contosso");
}

#[test]
#[should_panic(expected = "integrations.nobody is not in the configuration")]
fn an_integration_that_is_not_there_is_not_kept() {
    small().only(&["contoso", "nobody"]);
}
