//! Documents that must match the code.

use std::path::Path;

use consentry::domain::Reason;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

#[test]
fn every_reason_is_explained() {
    let text = read("docs/reasons.md");
    for reason in Reason::ALL {
        let section = text
            .split(&format!("## {}\n", reason.label()))
            .nth(1)
            .unwrap_or_else(|| panic!("{} is missing", reason.label()));
        let section = section.split("\n## ").next().unwrap_or_default();
        for part in [reason.sentence(), reason.advice(), reason.remedy().label()] {
            assert!(section.contains(part), "{}: {part}", reason.label());
        }
    }
    assert_eq!(text.matches("\n## ").count(), Reason::ALL.len(), "no reason that does not exist");
}

#[test]
fn every_dependency_is_justified() {
    let text = read("docs/dependencies.md");
    for manifest in ["Cargo.toml", "entra-sim/Cargo.toml"] {
        let manifest = read(manifest);
        let mut inside = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                inside = matches!(line, "[dependencies]" | "[dev-dependencies]");
            } else if let (true, Some(name)) =
                (inside, line.split(['.', ' ', '=']).next().filter(|n| !n.is_empty()))
            {
                let name = if name == "webpki" { "rustls-webpki" } else { name };
                // The simulator shares most of the daemon's.
                let known = text.contains(name);
                assert!(known, "{name} is not justified in docs/dependencies.md");
            }
        }
    }
}

#[test]
fn the_readme_names_commands_that_exist() {
    let readme = read("README.md");
    let help =
        std::process::Command::new(env!("CARGO_BIN_EXE_consentry")).arg("--help").output().expect("run");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for line in readme.lines().filter(|l| l.starts_with("consentry ")) {
        let command = line.split_whitespace().nth(1).expect("a command");
        assert!(help.contains(&format!("  {command} ")), "{command}");
    }
}
