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
    ("metrics", &["domain"]),
    ("monitor", &["domain", "secret", "clock", "entra", "store", "metrics"]),
    ("notify", &["domain", "secret", "clock", "store", "metrics"]),
    ("reauth", &["domain", "secret", "clock", "entra", "store", "metrics"]),
    ("web", &["domain", "secret", "clock", "config", "metrics", "reauth"]),
    ("app", &["domain", "secret", "clock", "config", "entra", "store", "metrics", "monitor", "notify", "reauth", "web", "telemetry"]),
    ("demo", &["app", "clock", "config", "domain", "secret", "store", "web"]),
    ("cli", &["app", "clock", "config", "demo", "domain", "entra", "monitor", "notify", "secret", "telemetry", "web"]),
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
                found.extend(inside.split(',').map(|p| p.trim().split("::").next().unwrap_or_default().to_owned()));
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
        let room = inside.iter().next().map(|p| p.to_string_lossy().trim_end_matches(".rs").to_owned()).expect("a room");
        let allowed = ROOMS.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room} is on no floor; add it to ROOMS")).1;
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
        assert!(!std::fs::read_to_string(&file).expect("readable").to_lowercase().contains("consentry"), "{}", file.display());
    }
}
