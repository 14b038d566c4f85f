use super::*;

const MAIN: &str = "
apps:
  sequr: {client_id: 00000000-0000-0000-0000-0000000000aa}
integrations:
  - {name: main, app: sequr, tenant_id: contoso.example}
integration_files: [\"d/*.yml\"]
";

struct Place {
    folder: tempfile::TempDir,
    sources: Option<Sources>,
    now: Instant,
}

fn list(names: &[&str]) -> String {
    names.iter().map(|n| format!("- {{name: {n}, app: sequr, tenant_id: contoso.example}}\n")).collect()
}

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("d")).expect("a folder");
        std::fs::write(folder.path().join("consentry.yml"), MAIN).expect("written");
        let mut place = Self { folder, sources: None, now: Instant::now() };
        files.iter().for_each(|(name, text)| place.write(name, text));
        let (_, sources) =
            Sources::load(&place.folder.path().join("consentry.yml"), &|_| None).expect("valid");
        place.sources = Some(sources);
        place
    }

    fn write(&mut self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join("d").join(name), text).expect("written");
    }

    /// Removes a file permanently.
    fn remove(&mut self, name: &str) {
        self.unlink(name);
        assert_ne!(self.follow(), None, "the removal is noticed");
        self.now += ABSENCE;
    }

    fn unlink(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join("d").join(name)).expect("removed");
    }

    /// Names of the integrations now, and names of invalid files; `None` when nothing has changed.
    fn follow(&mut self) -> Option<(Vec<String>, Vec<String>)> {
        let followed =
            self.sources.as_mut().expect("sources").follow(&|_| None, self.now)?.expect("valid as a whole");
        let names = followed.loaded.config.integrations.iter().map(|i| i.name.clone()).collect();
        let mut broken: Vec<String> = followed
            .broken
            .iter()
            .map(|p| p.file.rsplit('/').next().unwrap_or_default().to_owned())
            .collect();
        broken.dedup();
        self.sources = Some(followed.sources);
        Some((names, broken))
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn files_are_added_changed_broken_and_removed() {
    let mut place = Place::new(&[("a.yml", &list(&["a1", "a2"])), ("b.yml", &list(&["b1"]))]);
    assert_eq!(place.follow(), None, "nothing has changed");
    place.write("b.yml", &list(&["b1"]));
    assert_eq!(place.follow(), None, "written, but not changed");
    place.write("c.yml", &list(&["c1"]));
    place.write("b.yml", &list(&["b2"]));
    assert_eq!(place.follow(), Some((words("a1 a2 b2 c1 main"), vec![])));
    // A file that is half written keeps its last valid list; the changes of the others take effect.
    place.write("a.yml", "- {name: a1, app: sequr, tenant_id: contoso.example}\n- {name: a2, ap");
    place.write("c.yml", &list(&["c2"]));
    assert_eq!(place.follow(), Some((words("a1 a2 b2 c2 main"), words("a.yml"))));
    assert_eq!(place.follow(), None);
    // Still invalid, though another file has changed.
    place.write("c.yml", &list(&["c3"]));
    assert_eq!(place.follow(), Some((words("a1 a2 b2 c3 main"), words("a.yml"))));
    place.write("a.yml", &list(&["a3"]));
    assert_eq!(place.follow(), Some((words("a3 b2 c3 main"), vec![])));
    place.remove("b.yml");
    assert_eq!(place.follow(), Some((words("a3 c3 main"), vec![])));
    // A new file that is invalid has no list at all.
    place.write("new.yml", "- {name: new, app: unknown, tenant_id: contoso.example}\n");
    assert_eq!(place.follow(), Some((words("a3 c3 main"), words("new.yml"))));
    place.remove("new.yml");
    assert_eq!(place.follow(), Some((words("a3 c3 main"), vec![])));
}

#[test]
fn an_emptied_file_is_treated_as_half_written() {
    let mut place = Place::new(&[("a.yml", &list(&["a1"])), ("b.yml", "# nothing yet\n")]);
    place.write("a.yml", "");
    assert_eq!(place.follow(), Some((words("a1 main"), words("a.yml"))));
    place.write("a.yml", "[]\n");
    assert_eq!(place.follow(), Some((words("main"), vec![])));
}

/// Some programs write by deleting a file and creating it again. The integrations of a file that is absent for a moment stay.
#[test]
fn a_file_that_is_absent_for_a_moment_keeps_its_integrations() {
    let mut place = Place::new(&[("a.yml", &list(&["a1"]))]);
    place.unlink("a.yml");
    assert_eq!(place.follow(), Some((words("a1 main"), vec![])));
    assert_eq!(place.follow(), None);
    place.now += ABSENCE / 2;
    place.write("a.yml", &list(&["a1", "a2"]));
    assert_eq!(place.follow(), Some((words("a1 a2 main"), vec![])));
    place.now += ABSENCE;
    assert_eq!(place.follow(), None);
    assert!(!place.sources.as_ref().expect("sources").waits());
}

/// A folder that cannot be listed is not treated as empty.
#[test]
fn a_folder_that_cannot_be_read_keeps_its_integrations() {
    let mut place = Place::new(&[("a.yml", &list(&["a1"]))]);
    let folder = place.folder.path().join("d");
    // Even root cannot read a loop of links.
    let away = place.folder.path().join("away");
    std::fs::rename(&folder, &away).expect("renamed");
    std::os::unix::fs::symlink(&folder, &folder).expect("a link to itself");
    for _ in 0..3 {
        let followed = place.follow();
        assert!(followed.as_ref().is_none_or(|(names, _)| *names == words("a1 main")), "{followed:?}");
        place.now += ABSENCE;
    }
    std::fs::remove_file(&folder).expect("removed");
    std::fs::rename(&away, &folder).expect("renamed");
    place.write("a.yml", &list(&["a1", "a2"]));
    assert_eq!(place.follow(), Some((words("a1 a2 main"), vec![])));
}

/// Editors' lock files and the folders of a Kubernetes volume do not contain integrations.
#[test]
fn hidden_files_and_folders_are_ignored() {
    let mut place = Place::new(&[("a.yml", &list(&["a1"]))]);
    let folder = place.folder.path().join("d");
    std::os::unix::fs::symlink("nobody@nowhere.1", folder.join(".#a.yml")).expect("a dangling link");
    std::fs::create_dir(folder.join("folder.yml")).expect("a folder");
    place.write("b.yml", &list(&["b1"]));
    assert_eq!(place.follow(), Some((words("a1 b1 main"), vec![])));
    std::fs::write(folder.join(".asked.yml"), list(&["x"])).expect("written");
    let asked = matching(&folder.join(".*.yml").display().to_string()).expect("a pattern");
    assert_eq!(
        asked.files,
        [folder.join(".#a.yml"), folder.join(".asked.yml")],
        "unless the pattern asks for them"
    );
}

/// A change between the first reading and the first call of `follow` is not missed, whatever the metadata are by then.
#[test]
fn a_change_right_after_the_start_is_found() {
    let mut place = Place::new(&[("a.yml", &list(&["a1"]))]);
    let folder = place.folder.path().to_owned();
    let write = |name: &str, names: &[&str]| {
        std::fs::write(folder.join("d").join(name), list(names)).expect("written");
    };
    write("a.yml", &["a1", "a2"]);
    write("b.yml", &["b1"]);
    assert_eq!(place.follow(), Some((words("a1 a2 b1 main"), vec![])));
}

/// A name that is moved from one file to another may be in both files for a moment.
#[test]
fn the_second_file_with_a_name_is_rejected() {
    let mut place = Place::new(&[("a.yml", &list(&["x"])), ("b.yml", &list(&["y"]))]);
    place.write("b.yml", &list(&["x", "y"]));
    assert_eq!(place.follow(), Some((words("main x y"), words("b.yml"))));
    place.write("a.yml", "[]");
    assert_eq!(place.follow(), Some((words("main x y"), vec![])), "b.yml has not changed, but is valid now");
    // The new file is rejected even when it sorts first.
    place.write("0.yml", &list(&["x"]));
    place.write("z.yml", &list(&["z"]));
    assert_eq!(place.follow(), Some((words("main x y z"), words("0.yml"))));
    place.write("0.yml", &list(&["main"]));
    assert_eq!(place.follow(), Some((words("main x y z"), words("0.yml"))));
}

/// Kubernetes mounts a ConfigMap as links into a folder that is swapped as a whole.
#[cfg(unix)]
#[test]
fn swapped_links_are_followed() {
    use std::os::unix::fs::symlink;
    let mut place = Place::new(&[]);
    let folder = place.folder.path().join("d");
    for (version, names) in [("1", ["a1", "a2"]), ("2", ["a2", "a3"])] {
        std::fs::create_dir(folder.join(format!("..{version}"))).expect("a folder");
        std::fs::write(folder.join(format!("..{version}/list.yml")), list(&names)).expect("written");
    }
    symlink("..1", folder.join("..data")).expect("a link");
    symlink("..data/list.yml", folder.join("list.yml")).expect("a link");
    assert_eq!(place.follow(), Some((words("a1 a2 main"), vec![])));
    symlink("..2", folder.join("..data_tmp")).expect("a link");
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("swapped");
    assert_eq!(place.follow(), Some((words("a2 a3 main"), vec![])));
    assert_eq!(place.sources.expect("sources").folders(), [(folder, false)]);
}

/// An invalid or absent file is reported but is no change of the configuration; renewed certificate authorities are one.
#[test]
fn invalid_files_are_no_change_and_renewed_authorities_are_one() {
    let mut place = Place::new(&[("a.yml", &list(&["a1"]))]);
    let main = place.folder.path().join("consentry.yml");
    let authority = || {
        rcgen::CertificateParams::default()
            .self_signed(&rcgen::KeyPair::generate().expect("a key"))
            .expect("a certificate")
            .pem()
    };
    std::fs::write(place.folder.path().join("ca.pem"), authority()).expect("written");
    std::fs::write(&main, format!("upstream: {{tls_config: {{ca_file: ca.pem}}}}\n{MAIN}")).expect("written");
    let (_, sources) = Sources::load(&main, &|_| None).expect("valid");
    place.sources = Some(sources);
    let changed = |place: &mut Place| {
        let followed = place.sources.as_mut().expect("sources").follow(&|_| None, place.now)?.expect("valid");
        place.sources = Some(followed.sources);
        Some(followed.changed)
    };
    assert_eq!(changed(&mut place), None);
    place.write("a.yml", "- {name: a1, ap");
    assert_eq!(changed(&mut place), Some(false), "broken");
    place.write("a.yml", &list(&["a1"]));
    assert_eq!(changed(&mut place), Some(false), "as it was");
    place.unlink("a.yml");
    assert_eq!(changed(&mut place), Some(false), "absent");
    place.now += ABSENCE;
    assert_eq!(changed(&mut place), Some(true), "gone");
    std::fs::write(place.folder.path().join("ca.pem"), authority()).expect("written");
    assert_eq!(changed(&mut place), Some(true), "authorities");
}

#[test]
fn a_problem_outside_the_changed_files_changes_nothing() {
    let mut place = Place::new(&[("a.yml", &list(&["a1"]))]);
    let main = place.folder.path().join("consentry.yml");
    let secret = place.folder.path().join("secret");
    std::fs::write(&secret, "s").expect("written");
    std::fs::write(&main, MAIN.replace("{client_id", "{credential: {client_secret_file: secret}, client_id"))
        .expect("written");
    let (_, mut sources) = Sources::load(&main, &|_| None).expect("valid");
    // Only a reload reads a changed main file.
    std::fs::write(&main, "nonsense").expect("written");
    std::fs::remove_file(&secret).expect("removed");
    place.write("a.yml", &list(&["a2"]));
    let problems = sources.follow(&|_| None, place.now).expect("changed").expect_err("the secret is missing");
    assert!(problems.iter().any(|p| p.path == "apps.sequr.credential.client_secret_file"), "{problems:?}");
    std::fs::write(&secret, "s").expect("written");
    let followed = sources.follow(&|_| None, place.now).expect("looked at again").expect("valid");
    assert_eq!(followed.loaded.config.integrations[0].name, "a2");
}
