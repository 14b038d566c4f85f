//! Programs that some tests need besides Rust: a browser, shellcheck. Continuous integration installs them
//! and demands them; on another machine a test says what it leaves out.

/// Whether a program is there. With `CONSENTRY_TEST_TOOLS=required` it must be.
pub fn available(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    assert!(
        found || std::env::var_os("CONSENTRY_TEST_TOOLS").is_none_or(|v| v != "required"),
        "{program} is not installed"
    );
    if !found {
        eprintln!("{program} is not installed: a part of this test is left out");
    }
    found
}
