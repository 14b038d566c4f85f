//! Imports run down only. The layers are those of ARCHITECTURE.md.

use std::path::{Path, PathBuf};

/// What each module may use besides itself.
const MODULES: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("secret", &[]),
    ("certificate", &["secret"]),
    ("credential", &["certificate", "domain", "encoding", "secret"]),
    ("clock", &["domain"]),
    ("encoding", &[]),
    ("signed", &[]),
    ("telemetry", &[]),
    ("urls", &[]),
    ("config", &["certificate", "credential", "domain", "secret", "encoding", "urls"]),
    ("entra", &["certificate", "credential", "domain", "secret", "clock", "encoding", "urls"]),
    ("store", &["domain", "secret", "clock"]),
    ("fleet", &["domain"]),
    ("metrics", &["domain", "fleet", "encoding"]),
    ("monitor", &["credential", "domain", "secret", "clock", "entra", "fleet", "store", "metrics"]),
    ("notify", &["domain", "secret", "signed", "clock", "config", "entra", "store", "metrics"]),
    ("reauth", &["credential", "domain", "secret", "clock", "config", "entra", "fleet", "store", "metrics"]),
    ("listener", &["domain", "secret", "clock", "config"]),
    (
        "web",
        &[
            "domain", "secret", "signed", "clock", "config", "fleet", "metrics", "reauth", "listener",
            "encoding",
        ],
    ),
    (
        "app",
        &[
            "credential",
            "domain",
            "secret",
            "signed",
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
            "credential",
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
            "urls",
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

/// Modules that a source names after `crate::` or `consentry::`.
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
fn modules_import_lower_layers_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let files = sources(&root);
    assert!(files.len() > 30, "the sources are found");
    for file in files {
        let inside = file.strip_prefix(&root).expect("inside");
        let module = inside
            .iter()
            .next()
            .map(|p| p.to_string_lossy().trim_end_matches(".rs").to_owned())
            .expect("a module");
        let allowed = MODULES
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{module} is on no layer; add it to MODULES"))
            .1;
        let text = std::fs::read_to_string(&file).expect("readable");
        for import in imports(&text) {
            let known = MODULES.iter().any(|(name, _)| *name == import);
            if known && import != module && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} may not use {import}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// All paths that a file names after `use`, `crate::` or `super::`, groups resolved. Tests may use whatever they test.
fn named_paths(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String =
        code.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let mut found = Vec::new();
    for statement in code.split("\nuse ").skip(1).filter_map(|rest| rest.split(';').next()) {
        expand("", statement, &mut found);
    }
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let path = code[at..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c));
            found.push(path.collect());
        }
    }
    found
}

/// `a::{b, c::{d}}` as `a::b` and `a::c::d`.
fn expand(prefix: &str, text: &str, found: &mut Vec<String>) {
    let text = text.trim();
    let Some((head, group)) = text.split_once('{') else {
        return found.push(format!("{prefix}{}", text.split(" as ").next().unwrap_or_default().trim()));
    };
    let (mut depth, mut part) = (0, String::new());
    for c in group.trim_end().strip_suffix('}').unwrap_or(group).chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            expand(&format!("{prefix}{head}"), &std::mem::take(&mut part), found);
        } else {
            part.push(c);
        }
    }
    if !part.trim().is_empty() {
        expand(&format!("{prefix}{head}"), &part, found);
    }
}

/// The module of a file, such as `web::pages::status`; `mod.rs` is the module of its folder.
fn module_of(inside: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        inside.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    parts.retain(|part| part != "mod");
    parts
}

/// What a path names, from the root.
fn absolute(module: &[String], path: &str) -> Vec<String> {
    let mut at = module.to_vec();
    for part in path.split("::").filter(|part| !part.is_empty()) {
        match part {
            "crate" => at.clear(),
            "super" => drop(at.pop()),
            "self" => {}
            name => at.push(name.to_owned()),
        }
    }
    at
}

/// No file uses one that uses it, over however many others. A `mod.rs` that hands on what its folder holds does not count.
#[test]
fn no_file_imports_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<(Vec<String>, Vec<Vec<String>>)> = sources(&root)
        .iter()
        .filter(|file| !file.ends_with("mod.rs"))
        .map(|file| {
            let module = module_of(file.strip_prefix(&root).expect("inside"));
            let text = std::fs::read_to_string(file).expect("readable");
            let used = named_paths(&text).iter().map(|path| absolute(&module, path)).collect();
            (module, used)
        })
        .collect();
    let users = |module: &[String]| -> Vec<usize> {
        let (_, used) = files.iter().find(|(name, _)| name == module).expect("a file");
        let names = |other: &[String]| used.iter().any(|path| path.starts_with(other));
        (0..files.len()).filter(|index| files[*index].0 != module && names(&files[*index].0)).collect()
    };
    let graph: Vec<Vec<usize>> = files.iter().map(|(module, _)| users(module)).collect();
    assert!(graph.iter().flatten().count() > 300, "the imports are found");
    let mut circles = Vec::new();
    for start in 0..files.len() {
        let (mut seen, mut next) = (std::collections::BTreeSet::new(), graph[start].clone());
        while let Some(file) = next.pop() {
            if file == start {
                circles.push(files[start].0.join("::"));
                break;
            }
            if seen.insert(file) {
                next.extend(&graph[file]);
            }
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn grouped_imports_are_expanded() {
    let text = "\nuse super::{a, b::{c, d as e}};\nfn f() { crate::x::y(); }\n";
    assert_eq!(named_paths(text)[..3], ["super::a", "super::b::c", "super::b::d"]);
    assert!(named_paths(text).contains(&"crate::x::y".to_owned()));
    let module = ["web".to_owned(), "pages".to_owned()];
    assert_eq!(absolute(&module, "super::b::c"), ["web", "b", "c"]);
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
