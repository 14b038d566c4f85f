//! Imports run down only. The floors are those of ARCHITECTURE.md.

use std::path::{Path, PathBuf};

/// What each room may use besides itself.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("secret", &[]),
    ("clock", &["domain"]),
    ("telemetry", &[]),
    ("config", &["domain", "secret"]),
    ("entra", &["domain", "secret", "clock"]),
    ("store", &["domain", "secret", "clock"]),
    ("fleet", &["domain"]),
    ("metrics", &["domain", "fleet"]),
    ("monitor", &["domain", "secret", "clock", "entra", "fleet", "store", "metrics"]),
    ("notify", &["domain", "secret", "clock", "config", "store", "metrics"]),
    ("reauth", &["domain", "secret", "clock", "config", "entra", "fleet", "store", "metrics"]),
    ("listener", &["domain", "secret", "clock", "config"]),
    ("web", &["domain", "secret", "clock", "config", "fleet", "metrics", "reauth", "listener"]),
    (
        "app",
        &[
            "domain",
            "secret",
            "clock",
            "config",
            "entra",
            "fleet",
            "store",
            "metrics",
            "monitor",
            "notify",
            "reauth",
            "listener",
            "web",
            "telemetry",
        ],
    ),
    ("demo", &["app", "clock", "config", "domain", "secret", "store", "web"]),
    (
        "cli",
        &[
            "app",
            "clock",
            "config",
            "demo",
            "domain",
            "entra",
            "monitor",
            "notify",
            "secret",
            "telemetry",
            "web",
        ],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Rooms that a source names after `crate::` or `consentry::`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for prefix in ["crate::", "consentry::"] {
        for after in text.split(prefix).skip(1) {
            if let Some(group) = after.strip_prefix('{') {
                let inside = group.split('}').next().unwrap_or_default();
                found.extend(
                    inside.split(',').map(|p| p.trim().split("::").next().unwrap_or_default().to_owned()),
                );
            } else {
                found.push(after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            }
        }
    }
    found
}

#[test]
fn imports_run_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let files = sources(&root);
    assert!(files.len() > 30, "the walk finds the sources");
    for file in files {
        let inside = file.strip_prefix(&root).expect("inside");
        let room = inside
            .iter()
            .next()
            .map(|p| p.to_string_lossy().trim_end_matches(".rs").to_owned())
            .expect("a room");
        let allowed = ROOMS
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("{room} is on no floor; add it to ROOMS"))
            .1;
        let text = std::fs::read_to_string(&file).expect("readable");
        for import in imports(&text) {
            let known = ROOMS.iter().any(|(name, _)| *name == import);
            if known && import != room && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} may not use {import}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a file of a room uses of its neighbours, by their names.
fn neighbours(text: &str) -> Vec<String> {
    // Tests may use whatever they test.
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let names = |prefix: &str| -> Vec<String> {
        let word =
            |after: &str| after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        code.lines().filter_map(|line| line.trim_start().strip_prefix(prefix).map(word)).collect()
    };
    names("use super::")
}

/// No file of a room uses one that uses it, over however many others.
#[test]
fn no_file_imports_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut circles = Vec::new();
    let rooms = std::fs::read_dir(&root)
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    for room in rooms {
        let files: std::collections::BTreeMap<String, Vec<String>> = std::fs::read_dir(&room)
            .expect("a folder")
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "rs"))
            .map(|entry| {
                let name = entry.path().file_stem().expect("a name").to_string_lossy().into_owned();
                (name, neighbours(&std::fs::read_to_string(entry.path()).expect("readable")))
            })
            .collect();
        for start in files.keys().filter(|name| *name != "mod") {
            let (mut seen, mut next) = (std::collections::BTreeSet::new(), files[start].clone());
            while let Some(file) = next.pop() {
                if file == *start {
                    circles.push(format!("{}/{start}", room.file_name().expect("a name").to_string_lossy()));
                    break;
                }
                if seen.insert(file.clone()) {
                    next.extend(files.get(&file).cloned().unwrap_or_default());
                }
            }
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn the_domain_does_no_io() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/domain");
    for file in sources(&root) {
        let text = std::fs::read_to_string(&file).expect("readable");
        for banned in ["async ", "serde", "tokio", "std::fs", "std::net", "SystemTime", "Instant", "rand::"] {
            assert!(!text.contains(banned), "{} uses {banned}", file.display());
        }
    }
}

#[test]
fn the_simulator_knows_nothing_of_its_users() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("entra-sim");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("readable");
    assert!(!manifest.contains("consentry"));
    for file in sources(&root.join("src")) {
        assert!(
            !std::fs::read_to_string(&file).expect("readable").to_lowercase().contains("consentry"),
            "{}",
            file.display()
        );
    }
}
