//! Files that change under a running daemon: telling that they have, and reading `integration_files` again, each file on its own. One
//! that is wrong keeps its last good list; the others are followed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::reader::{Environment, Problem};
use super::{Loaded, load_with};

/// How files look from outside. Equal looks mean equal contents, unless one has changed within two seconds of being looked at: file
/// systems tell times in steps, and two changes within one look alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looks {
    files: Vec<(PathBuf, Option<Look>)>,
    settled: bool,
}

type Look = (SystemTime, u64, u64);

const SETTLED: Duration = Duration::from_secs(2);

impl Looks {
    /// Looks at files, following links.
    pub fn at(files: &[PathBuf]) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let look = |path: &PathBuf| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len(), m.ino())));
        let files: Vec<_> = files.iter().map(|path| (path.clone(), look(path))).collect();
        let old = |at: SystemTime| at.elapsed().is_ok_and(|age| age > SETTLED);
        Self { settled: files.iter().filter_map(|(_, look)| *look).all(|(modified, ..)| old(modified)), files }
    }

    /// Whether contents may differ from those at another look.
    pub fn may_differ(&self, earlier: &Self) -> bool {
        self.files != earlier.files || !self.settled
    }

    /// Whether contents do differ, as far as looks tell.
    pub fn differ(&self, earlier: &Self) -> bool {
        self.files != earlier.files
    }
}

/// Files that match a pattern, in order; `None` for what is no pattern.
pub(super) fn matching(pattern: &str) -> Option<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = glob::glob(pattern).ok()?.filter_map(Result::ok).collect();
    files.sort();
    Some(files)
}

/// What a configuration was read from: kept to see what has changed, and to fall back on.
#[derive(Debug)]
pub struct Sources {
    main: PathBuf,
    /// The texts in use, compressed: the main file's and those of the integration files.
    texts: BTreeMap<PathBuf, Vec<u8>>,
    patterns: Vec<String>,
    /// Other files that count when they change.
    others: Vec<PathBuf>,
    looks: Looks,
    /// Digests of what was on disk, whether it was good or not.
    seen: BTreeMap<PathBuf, u64>,
    broken: BTreeMap<PathBuf, Vec<Problem>>,
}

/// The configuration after some of its integration files have changed.
#[derive(Debug)]
pub struct Followed {
    /// The whole configuration.
    pub loaded: Loaded,
    /// What it was read from.
    pub sources: Sources,
    /// Files whose last good list is in use, with what is wrong with each.
    pub broken: Vec<Problem>,
}

impl Sources {
    /// Reads a configuration and remembers what it was read from.
    ///
    /// # Errors
    /// As [`super::load`].
    pub fn load(path: &Path, environment: Environment<'_>) -> Result<(Loaded, Self), Vec<Problem>> {
        let texts = std::cell::RefCell::new(BTreeMap::new());
        let loaded = load_with(path, environment, &|file| {
            let text = std::fs::read_to_string(file)?;
            texts.borrow_mut().insert(file.to_owned(), text.clone());
            Ok(text)
        })?;
        let sources = Self::of(path, &loaded, &texts.into_inner(), BTreeMap::new());
        Ok((loaded, sources))
    }

    fn of(main: &Path, loaded: &Loaded, texts: &BTreeMap<PathBuf, String>, broken: BTreeMap<PathBuf, Vec<Problem>>) -> Self {
        let (patterns, others) =
            (loaded.config.integration_files.clone(), loaded.config.upstream.ca_file.iter().cloned().collect::<Vec<_>>());
        let texts = texts.iter().map(|(path, text)| (path.clone(), compressed(text))).collect();
        let mut sources = Self { main: main.to_owned(), texts, patterns, others, looks: Looks::at(&[]), seen: BTreeMap::new(), broken };
        let files = sources.files();
        sources.looks = Looks::at(&files);
        sources.seen = digests(&read(&files));
        sources
    }

    /// The main file.
    pub fn main(&self) -> &Path {
        &self.main
    }

    /// How many files' last good list is in use.
    pub fn broken_files(&self) -> usize {
        self.broken.len()
    }

    /// What was found could not be used: look again next time, changed or not.
    pub fn look_again(&mut self) {
        self.seen.clear();
        self.looks = Looks::at(&[]);
    }

    /// Folders to watch for changes, and whether with everything below.
    pub fn folders(&self) -> Vec<(PathBuf, bool)> {
        let folder = |pattern: &String| {
            let parts: Vec<_> = Path::new(pattern).components().collect();
            let plain = parts.iter().take_while(|p| !p.as_os_str().to_string_lossy().contains(['*', '?', '['])).count();
            // The last part is a file's name in any case.
            let plain = plain.min(parts.len().saturating_sub(1));
            let folder: PathBuf = parts[..plain].iter().collect();
            let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
            (folder, parts.len() - plain > 1)
        };
        let mut folders: Vec<_> = self.patterns.iter().map(folder).collect();
        folders.extend(self.others.iter().filter_map(|path| Some((path.parent()?.to_owned(), false))));
        folders.sort();
        folders.dedup();
        folders
    }

    /// What is wrong with files whose last good list is in use.
    pub fn broken(&self) -> Vec<Problem> {
        self.broken.values().flatten().cloned().collect()
    }

    /// The watched files as they are now.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            self.patterns.iter().filter_map(|p| matching(p)).flatten().chain(self.others.iter().cloned()).collect();
        files.sort();
        files.dedup();
        files
    }

    /// Reads the watched files again; `None` when nothing has changed. The main file counts as it was read last.
    ///
    /// # Errors
    /// The configuration as a whole is invalid now, for what stands in none of the changed files: then nothing has changed.
    pub fn follow(&mut self, environment: Environment<'_>) -> Option<Result<Followed, Vec<Problem>>> {
        let files = self.files();
        let looks = Looks::at(&files);
        if !looks.may_differ(&self.looks) {
            return None;
        }
        let disk = read(&files);
        let seen = digests(&disk);
        self.looks = looks;
        if seen == self.seen {
            return None;
        }
        let changed: Vec<PathBuf> = disk.keys().filter(|path| self.seen.get(*path) != seen.get(*path)).cloned().collect();
        let earlier = std::mem::replace(&mut self.seen, seen);
        // What was broken may be good now that another file has changed.
        let candidates: BTreeMap<PathBuf, &str> = disk
            .iter()
            .filter(|(path, _)| (changed.contains(path) || self.broken.contains_key(*path)) && !self.others.contains(path))
            .filter_map(|(path, text)| Some((path.clone(), text.as_deref()?)))
            .collect();
        let settled = self.settle(&disk, candidates, environment);
        if settled.is_err() {
            // Perhaps it is mended in a file that is not watched: look again next time.
            self.seen = earlier;
            self.looks = Looks::at(&[]);
        }
        Some(settled)
    }

    /// Takes over every candidate that is good.
    fn settle(
        &self,
        disk: &BTreeMap<PathBuf, Option<String>>,
        candidates: BTreeMap<PathBuf, &str>,
        environment: Environment<'_>,
    ) -> Result<Followed, Vec<Problem>> {
        let mut broken: BTreeMap<PathBuf, Vec<Problem>> = BTreeMap::new();
        for (path, text) in disk {
            let half_written =
                text.as_deref().is_some_and(|t| t.trim().is_empty()) && self.kept(path).is_some_and(|t| !t.trim().is_empty());
            if text.is_none() && !self.others.contains(path) {
                broken.insert(path.clone(), vec![problem(path, "cannot read the file")]);
            } else if half_written && candidates.contains_key(path) {
                broken.insert(path.clone(), vec![problem(path, "is empty; write [] for a file without integrations")]);
            }
        }
        let good = |broken: &BTreeMap<PathBuf, Vec<Problem>>| -> BTreeMap<PathBuf, &str> {
            candidates.iter().filter(|(path, _)| !broken.contains_key(*path)).map(|(path, text)| (path.clone(), *text)).collect()
        };
        // Problems mostly stand in the file that has them: what is left is good together, or what is left is tried one by one.
        for _ in 0..2 {
            let accepted = good(&broken);
            match self.attempt(&accepted, environment) {
                Ok(loaded) => return Ok(self.followed(loaded, &accepted, broken)),
                Err(problems) => {
                    for (path, problems) in blamed(&accepted, problems) {
                        broken.insert(path, problems);
                    }
                }
            }
        }
        let mut accepted = BTreeMap::new();
        let mut loaded = self.attempt(&accepted, environment)?;
        for (path, text) in good(&broken) {
            let mut more = accepted.clone();
            more.insert(path.clone(), text);
            match self.attempt(&more, environment) {
                Ok(better) => (accepted, loaded) = (more, better),
                Err(problems) => {
                    let first = problems.first().map(ToString::to_string).unwrap_or_default();
                    let own = problem(&path, format!("cannot be used together with the other files: {first}"));
                    broken.insert(path, vec![own]);
                }
            }
        }
        Ok(self.followed(loaded, &accepted, broken))
    }

    /// The configuration with these files as they are on disk, and the others as they were.
    fn attempt(&self, accepted: &BTreeMap<PathBuf, &str>, environment: Environment<'_>) -> Result<Loaded, Vec<Problem>> {
        load_with(&self.main, environment, &|file| match accepted.get(file) {
            Some(text) => Ok((*text).to_owned()),
            // A new file that is broken has no last good list.
            None => Ok(self.kept(file).unwrap_or_default()),
        })
    }

    fn followed(&self, loaded: Loaded, accepted: &BTreeMap<PathBuf, &str>, broken: BTreeMap<PathBuf, Vec<Problem>>) -> Followed {
        let text = |path: &PathBuf| accepted.get(path).map(|t| (*t).to_owned()).or_else(|| self.kept(path));
        let files = self.files();
        let texts: BTreeMap<PathBuf, String> =
            files.iter().chain([&self.main]).filter_map(|path| Some((path.clone(), text(path)?))).collect();
        let (looks, seen) = (self.looks.clone(), self.seen.clone());
        let sources = Self { looks, seen, ..Self::of(&self.main, &loaded, &texts, broken) };
        Followed { broken: sources.broken(), loaded, sources }
    }

    /// The text in use of a file.
    fn kept(&self, path: &Path) -> Option<String> {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&self.texts.get(path)?[..]).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// A problem of a file as a whole.
fn problem(path: &Path, message: impl Into<String>) -> Problem {
    Problem { file: path.display().to_string(), line: 0, column: 0, path: String::new(), message: message.into() }
}

/// Problems by the file they stand in, for those of some files.
fn blamed(files: &BTreeMap<PathBuf, &str>, problems: Vec<Problem>) -> BTreeMap<PathBuf, Vec<Problem>> {
    let mut by_file: BTreeMap<PathBuf, Vec<Problem>> = BTreeMap::new();
    for problem in problems {
        if let Some(path) = files.keys().find(|path| path.display().to_string() == problem.file) {
            by_file.entry(path.clone()).or_default().push(problem);
        }
    }
    by_file
}

/// Texts on disk; `None` for one that cannot be read.
fn read(files: &[PathBuf]) -> BTreeMap<PathBuf, Option<String>> {
    files.iter().map(|path| (path.clone(), std::fs::read_to_string(path).ok())).collect()
}

fn digests(texts: &BTreeMap<PathBuf, Option<String>>) -> BTreeMap<PathBuf, u64> {
    let digest = |text: &Option<String>| {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    };
    texts.iter().map(|(path, text)| (path.clone(), digest(text))).collect()
}

fn compressed(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(text.len() / 8), flate2::Compression::fast());
    // Memory does not fail half-way.
    let _ = encoder.write_all(text.as_bytes());
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
