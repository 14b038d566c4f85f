//! Configurations as people write them: valid ones are read, and all problems of invalid ones are reported at
//! once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use consentry::config::{Loaded, Problem, load_with};
use consentry::credential::ClientCredential;

fn fixtures(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(kind)
}

fn environment(name: &str) -> Option<String> {
    (name == "SEQUR_SECRET").then(|| "from-the-environment".to_owned())
}

fn read(path: &Path) -> Result<Loaded, Vec<Problem>> {
    load_with(path, &environment, consentry::config::Files::DISK)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder")
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "yml"))
        .collect();
    found.sort();
    found
}

/// Every invalid file with every problem: place, key path, what to write instead. Compared whole.
#[test]
fn invalid_files_are_explained_in_full() {
    let files = files(&fixtures("invalid"));
    assert!(files.len() >= 4);
    for file in files {
        let problems = read(&file).expect_err(&file.display().to_string());
        let folder = file.parent().expect("a folder").display().to_string();
        let said: String =
            problems.iter().map(|p| format!("{p}\n").replace(&format!("{folder}/"), "")).collect();
        let expected = std::fs::read_to_string(file.with_extension("expected")).unwrap_or_default();
        assert!(said == expected, "{}:\n{said}", file.display());
    }
}

#[test]
fn valid_files_are_read() {
    for file in files(&fixtures("valid")) {
        let loaded = read(&file).unwrap_or_else(|problems| panic!("{}: {problems:#?}", file.display()));
        assert!(!loaded.config.integrations.is_empty());
    }
}

/// The example names every key; the minimal one is as short as a first configuration can be.
#[test]
fn shipped_configurations_are_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for (name, secrets) in [
        ("consentry.example.yml", &["sequr-secret", "reader-secret", "smtp-password", "hook-secret"][..]),
        ("minimal.yml", &["sequr-secret", "smtp-password"]),
    ] {
        std::fs::copy(shipped.join(name), folder.path().join(name)).expect("copied");
        for secret in secrets {
            std::fs::write(
                folder.path().join(secret),
                "whsec_bm90IGEgcmVhbCBzZWNyZXQsIGJ1dCBsb25nIGVub3VnaA==\n",
            )
            .expect("written");
        }
        std::fs::write(
            folder.path().join("corporate-ca.pem"),
            crate::certificates::Authority::new("Corporate").certificate,
        )
        .expect("written");
        let loaded =
            read(&folder.path().join(name)).unwrap_or_else(|problems| panic!("{name}: {problems:#?}"));
        assert_eq!(loaded.config.probe.interval, Duration::from_secs(300), "the example shows the defaults");
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let loaded = read(&fixtures("valid").join("smallest.yml")).expect("valid");
    let config = loaded.config;
    assert_eq!(
        (config.cloud.login_url.as_str(), config.cloud.graph_url.as_str()),
        ("https://login.microsoftonline.com", "https://graph.microsoft.com")
    );
    let probe = &config.probe;
    assert_eq!(
        (probe.interval, probe.timeout, probe.retry_interval),
        (Duration::from_secs(300), Duration::from_secs(30), Duration::from_secs(30))
    );
    assert_eq!((probe.concurrency, probe.failure_threshold, probe.success_threshold), (64, 2, 1));
    assert_eq!(config.reauthentication.link_ttl, Duration::from_secs(7 * 86_400));
    assert!(
        config.storage.path.ends_with("valid/consentry.db")
            && config.storage.encryption_key_file.ends_with("valid/consentry.key")
    );
    let integration = &config.integrations[0];
    assert_eq!(
        (integration.requirements.checks.len(), integration.requirements.groups.minimum, integration.enabled),
        (3, 1, true)
    );
    assert_eq!(config.apps["sequr"].credential, ClientCredential::None);
}

/// The warning before the end of a credential is 30 days unless the integration says otherwise.
#[test]
fn credential_settings_have_their_defaults() {
    let config = read(&fixtures("valid").join("credentials.yml")).expect("valid").config;
    let warnings: Vec<u64> =
        config.integrations.iter().map(|i| i.requirements.credential_warning.as_secs() / 86_400).collect();
    assert_eq!(warnings, [14, 0, 30]);
    let home = config.apps["sequr"].home_tenant.as_deref();
    assert_eq!(home, Some("33333333-3333-3333-3333-333333333333"));
}

#[test]
fn a_big_fleet_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("big.yml");
    let mut text = "apps: {a: {client_id: 00000000-0000-0000-0000-0000000000aa}}\nintegrations:\n".to_owned();
    for index in 0..20_000 {
        text.push_str(&format!("  - {{name: c{index}, app: a, tenant_id: t{index}.example.com, admins: [it@t{index}.example.com]}}\n"));
    }
    std::fs::write(&file, text).expect("written");
    assert_eq!(read(&file).expect("valid").config.integrations.len(), 20_000);
}

/// The output of `/config` is a valid configuration, the same as the original except for the secrets.
#[test]
fn the_effective_configuration_is_complete() {
    let folder = tempfile::tempdir().expect("a folder");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/consentry.example.yml");
    std::fs::copy(example, folder.path().join("one.yml")).expect("copied");
    for secret in ["sequr-secret", "reader-secret", "smtp-password", "hook-secret"] {
        std::fs::write(
            folder.path().join(secret),
            "whsec_bm90IGEgcmVhbCBzZWNyZXQsIGJ1dCBsb25nIGVub3VnaA==\n",
        )
        .expect("written");
    }
    std::fs::write(
        folder.path().join("corporate-ca.pem"),
        crate::certificates::Authority::new("Corporate").certificate,
    )
    .expect("written");
    let first = read(&folder.path().join("one.yml")).expect("valid").config;
    let shown = consentry::config::effective(&first);
    assert!(
        !shown.contains("whsec_bm9") && shown.contains("smtp-password"),
        "files are named, but their contents are not shown: {shown}"
    );
    std::fs::write(folder.path().join("two.yml"), &shown).expect("written");
    let second = read(&folder.path().join("two.yml"))
        .unwrap_or_else(|problems| panic!("{problems:#?}\n{shown}"))
        .config;
    // The proxy's URL is written as a parser does, without its login; a webhook's without its path, which may
    // be a key.
    let mut first = first;
    assert!(shown.contains("https://app.example.com/<secret>") && !shown.contains("azure-token"), "{shown}");
    first.upstream.proxy_url.clone_from(&second.upstream.proxy_url);
    for (name, app) in &mut first.apps {
        app.token_webhook.clone_from(&second.apps[name].token_webhook);
    }
    // Integrations from files are shown with the others, so the files are not named again.
    first.integration_files.clear();
    assert_eq!(second, first);
    for inline in ["credentials.yml", "smallest.yml"] {
        let config = read(&fixtures("valid").join(inline)).expect("valid").config;
        let shown = consentry::config::effective(&config);
        assert!(!shown.contains("from-the-environment") && !shown.contains("whsec_"), "{shown}");
    }
}
