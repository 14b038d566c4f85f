//! What is shipped with the program matches it: configurations, unit, Compose file, image, package.

use std::path::Path;

use consentry::config::load;
use serde_json::Value;
use serde_yaml::from_str;

use crate::catalogue::root;
use crate::configuration::Configuration;
use crate::tools::available;

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).expect(name)
}

fn documents(name: &str) -> Vec<Value> {
    read(name).split("\n---\n").map(|text| from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"))).collect()
}

/// Valid as it stands, once the files that it names are there.
fn valid(text: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["smtp-password", "sequr-secret"] {
        std::fs::write(folder.path().join(file), "secret").expect("written");
    }
    let here = folder.path().display().to_string();
    let text =
        ["/etc/consentry-secrets", "/etc/consentry-integrations", "/etc/consentry", "/var/lib/consentry"]
            .iter()
            .fold(text.to_owned(), |text, path| text.replace(path, &here));
    let file = folder.path().join("consentry.yml");
    std::fs::write(&file, text).expect("written");
    load(&file).unwrap_or_else(|problems| panic!("{problems:#?}"));
}

#[test]
fn the_packaged_configuration_is_valid_as_it_is_and_with_its_examples() {
    let packaged = read("config/packaged.yml");
    valid(&packaged);
    // Every commented-out line is valid.
    let all: String = packaged
        .lines()
        .filter(|l| !l.starts_with("apps: {}"))
        .map(|l| {
            l.strip_prefix("# ")
                .filter(|l| l.starts_with("email:") || l.starts_with("reauth"))
                .or(l.strip_prefix("#   ").map(|_| &l[2..]))
                .unwrap_or(l)
        })
        .map(|l| if l.starts_with("  sequr:") { format!("apps:\n{l}\n") } else { format!("{l}\n") })
        .collect();
    assert!(all.contains("\nemail:") && all.contains("\n    client_id:"), "{all}");
    let mut configuration = Configuration::parse(&all);
    configuration.remove("integration_files").add("integrations", &read("config/integration.example.yml"));
    valid(&configuration.text());
}

#[test]
fn the_kubernetes_example_configures_a_valid_daemon() {
    let all = documents("config/kubernetes.yml");
    let of = |kind: &str, name: &str| {
        let found = all.iter().find(|d| d["kind"] == kind && d["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("{kind} {name}")).clone()
    };
    let configuration =
        of("ConfigMap", "consentry")["data"]["consentry.yml"].as_str().expect("a configuration").to_owned();
    let list =
        of("ConfigMap", "consentry-integrations")["data"]["acme.yml"].as_str().expect("a list").to_owned();
    let mut whole = Configuration::parse(&configuration);
    whole.remove("integration_files").add("integrations", &list);
    valid(&whole.text());
    let pod = of("StatefulSet", "consentry")["spec"]["template"]["spec"].clone();
    let container = &pod["containers"][0];
    let mounted: Vec<&str> = container["volumeMounts"]
        .as_array()
        .expect("mounts")
        .iter()
        .filter_map(|m| m["mountPath"].as_str())
        .collect();
    for path in
        ["/var/lib/consentry", "/etc/consentry", "/etc/consentry-integrations", "/etc/consentry-secrets"]
    {
        assert!(mounted.contains(&path), "{path} is not mounted");
    }
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    flags_exist(container["args"].as_array().expect("arguments").iter().filter_map(Value::as_str));
}

/// `run`, or another command, takes these flags.
fn flags_exist<'a>(mut arguments: impl Iterator<Item = &'a str>) {
    let command = arguments.next().expect("a command").to_owned();
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_consentry"))
        .args([&command, "--help"])
        .output()
        .expect("run");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for argument in arguments.filter(|a| a.starts_with("--")) {
        let flag = argument.split('=').next().unwrap_or_default();
        assert!(help.contains(flag), "{command} has no {flag}");
    }
}

#[test]
fn the_compose_file_mounts_what_is_there() {
    let compose: Value = from_str(&read("config/compose.yml")).expect("YAML");
    let services = compose["services"].as_object().expect("services");
    assert_eq!(services.keys().collect::<Vec<_>>(), ["consentry", "grafana", "prometheus"]);
    for (name, service) in services {
        for mount in service["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let source = mount.split(':').next().expect("a source");
            let there = !source.starts_with('.') || root().join("config").join(source).exists();
            assert!(there, "{name}: {source} is not there");
        }
        for port in service["ports"].as_array().expect("ports").iter().filter_map(Value::as_str) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to everybody");
        }
    }
    flags_exist(
        services["consentry"]["command"].as_array().expect("a command").iter().filter_map(Value::as_str),
    );
    // The rules are found from where the container sees the configuration.
    let rules = "../dashboards/rules.yml";
    assert!(read("config/prometheus.yml").contains(rules) && root().join("config").join(rules).exists());
}

#[test]
fn image_and_package_have_this_version_and_existing_files() {
    let (image, manifest) = (read("Dockerfile"), read("Cargo.toml"));
    assert!(image.contains(&format!("ARG VERSION={}\n", env!("CARGO_PKG_VERSION"))));
    assert!(
        read("config/kubernetes.yml")
            .contains(&format!("image: registry.example.com/consentry:{}\n", env!("CARGO_PKG_VERSION")))
    );
    for wanted in [
        "FROM scratch",
        "USER 65532:65532",
        "[\"consentry\", \"healthcheck\"]",
        "org.opencontainers.image.licenses",
    ] {
        assert!(image.contains(wanted), "{wanted}");
    }
    let entry = image.lines().find_map(|l| l.strip_prefix("CMD ")).expect("a command");
    flags_exist(serde_json::from_str::<Vec<String>>(entry).expect("JSON").iter().map(String::as_str));
    let assets = manifest.split("\nassets = [").nth(1).expect("assets").split("\n]").next().expect("an end");
    for asset in
        assets.lines().filter_map(|l| l.trim().strip_prefix("[\"")).filter_map(|l| l.split('"').next())
    {
        let there = asset.starts_with("target/")
            || glob::glob(&root().join(asset).display().to_string()).expect("a pattern").next().is_some();
        assert!(there, "{asset} is not there");
    }
}

#[test]
fn the_unit_starts_what_the_package_installs() {
    let unit = read("config/consentry.service");
    let start =
        unit.lines().find_map(|l| l.strip_prefix("ExecStart=/usr/bin/consentry ")).expect("a command");
    flags_exist(start.split(' '));
    for line in ["LimitNOFILE=65536", "LimitCORE=0"] {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
    if available("systemd-analyze") {
        let output = std::process::Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=20"])
            .arg(root().join("config/consentry.service"))
            .output()
            .expect("run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Links between documents lead to existing files.
#[test]
fn links_between_documents_are_valid() {
    let mut broken = Vec::new();
    let folders = [".", "docs", "docs/runbooks", "dashboards", "entra-sim"];
    let files = folders
        .iter()
        .flat_map(|f| std::fs::read_dir(root().join(f)).expect("a folder").flatten())
        .map(|e| e.path());
    for file in files.filter(|f| f.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(&file).expect("a document");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://") || path.contains(' ');
            if !elsewhere && !file.parent().unwrap_or(Path::new(".")).join(path).exists() {
                broken.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
