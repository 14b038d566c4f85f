//! Writes `dashboards/fleet.json` and `dashboards/integration.json`. Run it after changing one of the modules:
//!
//! ```sh
//! cargo run -p consentry-dashboards
//! ```
//!
//! A test compares the committed files with what this program would write.

mod fleet;
mod integration;
mod panel;
#[cfg(test)]
mod rules;

use std::path::PathBuf;

use serde_json::Value;

/// The paths of the dashboards and their content.
fn dashboards() -> [(PathBuf, Value); 2] {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    [
        (folder.join("fleet.json"), fleet::dashboard()),
        (folder.join("integration.json"), integration::dashboard()),
    ]
}

fn text(dashboard: &Value) -> String {
    format!("{dashboard:#}\n")
}

fn main() -> std::io::Result<()> {
    for (path, dashboard) in dashboards() {
        std::fs::write(path, text(&dashboard))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_files_are_what_the_generator_writes() {
        for (path, dashboard) in dashboards() {
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == text(&dashboard),
                "{} is not current: cargo run -p consentry-dashboards",
                path.display()
            );
        }
    }
}
