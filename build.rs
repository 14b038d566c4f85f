//! Says at build time which compiler and which revision made the program, for `consentry_build_info`.

use std::process::Command;

fn main() {
    let output = |program: &str, arguments: &[&str]| {
        let run = Command::new(program).args(arguments).output().ok().filter(|o| o.status.success())?;
        String::from_utf8(run.stdout).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
    };
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(&rustc, &["--version"]).and_then(|v| v.split(' ').nth(1).map(str::to_owned));
    let revision = std::env::var("CONSENTRY_REVISION")
        .ok()
        .or_else(|| output("git", &["rev-parse", "--short=12", "HEAD"]));
    println!("cargo::rustc-env=CONSENTRY_RUSTC={}", version.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=CONSENTRY_REVISION={}", revision.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rerun-if-env-changed=CONSENTRY_REVISION");
    // HEAD names a branch; its log changes with every commit. A path that is not there would make cargo run this every time.
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"])
        .filter(|path| std::path::Path::new(path).exists());
    println!("cargo::rerun-if-changed={}", log.as_deref().unwrap_or("build.rs"));
}
