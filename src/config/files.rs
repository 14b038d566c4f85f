//! Files that change while the daemon runs: noticing changes, and reading `integration_files` again, each file on its own. An invalid
//! file keeps its last valid list; the changes of the other files take effect.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::include::{Files, Listing, literal_start, matching, read_text};
use super::problem::{Environment, Problem, unreadable};
use super::{Loaded, load_with};
use crate::encoding::gzip;

/// The metadata of files. Equal stamps mean equal contents, unless a file was changed less than two seconds before its metadata was read:
/// file systems record times in steps, and two changes within one step cannot be distinguished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamps {
    files: Vec<(PathBuf, Option<Stamp>)>,
    settled: bool,
}

/// Modification time, length in bytes, inode.
type Stamp = (SystemTime, u64, u64);

const SETTLED: Duration = Duration::from_secs(2);

impl FileStamps {
    /// Reads the metadata of files, following links.
    pub fn at(files: &[PathBuf]) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let stamp = |path: &PathBuf| {
            std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len(), m.ino())))
        };
        let files: Vec<_> = files.iter().map(|path| (path.clone(), stamp(path))).collect();
        let old = |at: SystemTime| at.elapsed().is_ok_and(|age| age > SETTLED);
        Self {
            settled: files.iter().filter_map(|(_, stamp)| *stamp).all(|(modified, ..)| old(modified)),
            files,
        }
    }

    /// Whether contents may differ from those of earlier stamps.
    pub fn may_differ(&self, earlier: &Self) -> bool {
        self.files != earlier.files || !self.settled || !earlier.settled
    }

    /// Whether the metadata differ, so that contents probably differ, too.
    pub fn differ(&self, earlier: &Self) -> bool {
        self.files != earlier.files
    }
}

/// What a configuration was read from: kept to notice changes and to fall back on.
#[derive(Debug)]
pub struct Sources {
    main: PathBuf,
    /// The texts in use, compressed: the main file's and those of the integration files.
    texts: BTreeMap<PathBuf, Vec<u8>>,
    /// Patterns, and the files in use that matched each.
    patterns: BTreeMap<String, Vec<PathBuf>>,
    /// Other files whose changes matter.
    others: Vec<PathBuf>,
    stamps: FileStamps,
    /// What was found on disk at the last reading, valid or not.
    seen: Disk,
    broken: Broken,
    /// Files in use that no longer exist, and since when.
    gone: BTreeMap<PathBuf, Instant>,
}

/// The configuration after some of its integration files have changed.
#[derive(Debug)]
pub struct Followed {
    /// The whole configuration.
    pub loaded: Loaded,
    /// What it was read from.
    pub sources: Sources,
    /// Problems of the files whose last valid list is in use.
    pub broken: Vec<Problem>,
    /// Whether the configuration differs from the one before; otherwise files are only invalid, or absent for a moment.
    pub changed: bool,
}

type Broken = BTreeMap<PathBuf, Vec<Problem>>;

/// A removed file is considered gone only after this time: a program that writes by deleting and creating again has finished by then.
pub const ABSENCE: Duration = Duration::from_secs(5);

/// What is on disk: for each pattern its files or why they cannot be listed, and digests of the files' contents or of why they cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Disk {
    lists: BTreeMap<String, Result<Listing, String>>,
    digests: BTreeMap<PathBuf, u64>,
}

impl Sources {
    /// Reads a configuration and remembers what it was read from.
    ///
    /// # Errors
    /// As [`super::load`].
    pub fn load(path: &Path, environment: Environment<'_>) -> Result<(Loaded, Self), Vec<Problem>> {
        let (texts, lists) = (RefCell::new(BTreeMap::new()), RefCell::new(BTreeMap::new()));
        let text = |file: &Path| {
            let text = read_text(file)?;
            texts.borrow_mut().insert(file.to_owned(), text.clone());
            Ok(text)
        };
        let list = |pattern: &str| {
            let listing = matching(pattern)?;
            lists.borrow_mut().insert(pattern.to_owned(), listing.clone());
            Ok(listing)
        };
        let loaded = load_with(path, environment, Files { text: &text, list: &list })?;
        let (texts, lists) = (texts.into_inner(), lists.into_inner());
        let others: Vec<PathBuf> = loaded.config.upstream.ca_file.iter().cloned().collect();
        let parsed = texts
            .iter()
            .filter(|(file, _)| *file != path)
            .map(|(file, text)| (file.clone(), Ok(text.clone())));
        // What was parsed, not what is on disk by now: the first call of `follow` finds later changes.
        let seen = Disk {
            digests: digests(&parsed.chain(read(&others)).collect()),
            lists: lists.iter().map(|(pattern, listing)| (pattern.clone(), Ok(listing.clone()))).collect(),
        };
        let patterns = lists.into_iter().map(|(pattern, listing)| (pattern, listing.files)).collect();
        let texts = texts
            .iter()
            .map(|(file, text)| (file.clone(), gzip(text.as_bytes()).unwrap_or_default()))
            .collect();
        let (broken, gone) = (BTreeMap::new(), BTreeMap::new());
        Ok((
            loaded,
            Self {
                main: path.to_owned(),
                texts,
                patterns,
                others,
                stamps: FileStamps::at(&[]),
                seen,
                broken,
                gone,
            },
        ))
    }

    /// The main file.
    pub fn main(&self) -> &Path {
        &self.main
    }

    /// The number of files whose last valid list is in use.
    pub fn broken_files(&self) -> usize {
        self.broken.len()
    }

    /// What was found could not be used: the next `follow` reads the files again, whether or not they have changed.
    pub fn look_again(&mut self) {
        self.seen = Disk::default();
        self.stamps = FileStamps::at(&[]);
    }

    /// Whether files were removed so recently that they may come back.
    pub fn waits(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Folders to watch for changes, and whether to watch their subfolders, too.
    pub fn folders(&self) -> Vec<(PathBuf, bool)> {
        let mut folders: Vec<_> = self.patterns.keys().map(|pattern| literal_start(pattern)).collect();
        folders.extend(self.others.iter().filter_map(|path| Some((path.parent()?.to_owned(), false))));
        folders.sort();
        folders.dedup();
        folders
    }

    /// Reads the watched files again; `None` when nothing has changed. The main file is not watched: its last read text is used.
    ///
    /// # Errors
    /// The configuration as a whole is invalid now, because of something outside the changed files. The configuration in use stays.
    pub fn follow(
        &mut self,
        environment: Environment<'_>,
        now: Instant,
    ) -> Option<Result<Followed, Vec<Problem>>> {
        let lists: BTreeMap<String, Result<Listing, String>> =
            self.patterns.keys().map(|p| (p.clone(), matching(p))).collect();
        let listed = lists.values().flatten().flat_map(|listing| &listing.files);
        let files: Vec<PathBuf> = listed.chain(&self.others).cloned().collect();
        let stamps = FileStamps::at(&files);
        let waited = self.gone.values().any(|since| now.duration_since(*since) >= ABSENCE);
        if lists == self.seen.lists && !stamps.may_differ(&self.stamps) && !waited {
            return None;
        }
        let texts = read(&files);
        let disk = Disk { lists, digests: digests(&texts) };
        self.stamps = stamps;
        if disk == self.seen && !waited {
            return None;
        }
        let changed = |path: &PathBuf| disk.digests.get(path) != self.seen.digests.get(path);
        // A file that was invalid may be valid now that another file has changed.
        let candidates: BTreeMap<PathBuf, &str> = texts
            .iter()
            .filter(|(path, _)| {
                (changed(path) || self.broken.contains_key(*path)) && !self.others.contains(path)
            })
            .filter_map(|(path, text)| Some((path.clone(), text.as_deref().ok()?)))
            .collect();
        let earlier = std::mem::replace(&mut self.seen, disk);
        let others = self.others.iter().any(|path| earlier.digests.get(path) != self.seen.digests.get(path));
        let settled = self.apply(&texts, &candidates, environment, now);
        let settled = settled.map(|followed| Followed { changed: followed.changed || others, ..followed });
        if settled.is_err() {
            // It may be fixed in a file that is not watched, so the next call reads the files again.
            self.seen = earlier;
            self.stamps = FileStamps::at(&[]);
        }
        Some(settled)
    }

    /// Accepts every valid candidate.
    fn apply(
        &mut self,
        disk: &Texts,
        candidates: &BTreeMap<PathBuf, &str>,
        environment: Environment<'_>,
        now: Instant,
    ) -> Result<Followed, Vec<Problem>> {
        let patterns = self.in_use(now);
        let attempt = |accepted: &BTreeMap<PathBuf, &str>| self.attempt(&patterns, accepted, environment);
        let mut broken = self.unusable(disk, candidates);
        let left = |broken: &Broken| -> BTreeMap<PathBuf, &str> {
            candidates
                .iter()
                .filter(|(path, _)| !broken.contains_key(*path))
                .map(|(path, text)| (path.clone(), *text))
                .collect()
        };
        // Most problems are reported at the file that causes them.
        for _ in 0..2 {
            let accepted = left(&broken);
            match attempt(&accepted) {
                Ok(loaded) => return Ok(self.followed(loaded, &patterns, &accepted, broken)),
                Err(problems) => broken.extend(offending_files(&accepted, problems)),
            }
        }
        // Some files cannot be used together. Bisection finds those that can.
        let mut accepted = BTreeMap::new();
        let mut loaded = attempt(&accepted)?;
        let mut groups = vec![left(&broken).into_iter().collect::<Vec<_>>()];
        while let Some(group) = groups.pop() {
            let mut more = accepted.clone();
            more.extend(group.iter().cloned());
            match attempt(&more) {
                Ok(better) => (accepted, loaded) = (more, better),
                Err(problems) if group.len() <= 1 => {
                    let first = problems.first().map(ToString::to_string).unwrap_or_default();
                    let own = |path: &Path| {
                        problem(path, format!("cannot be used together with the other files: {first}"))
                    };
                    broken.extend(group.into_iter().map(|(path, _)| (path.clone(), vec![own(&path)])));
                }
                Err(_) => {
                    let (first, second) = group.split_at(group.len() / 2);
                    groups.extend([second.to_vec(), first.to_vec()]);
                }
            }
        }
        Ok(self.followed(loaded, &patterns, &accepted, broken))
    }

    /// The files to use of each pattern: those that exist, those removed only now, and all earlier ones where the folder cannot be read.
    fn in_use(&mut self, now: Instant) -> BTreeMap<String, Vec<PathBuf>> {
        let (mut gone, mut patterns) = (BTreeMap::new(), BTreeMap::new());
        for (pattern, earlier) in &self.patterns {
            let files = match self.seen.lists.get(pattern) {
                Some(Ok(listing)) => {
                    let mut files = listing.files.clone();
                    for path in earlier.iter().filter(|path| !listing.files.contains(path)).cloned() {
                        if listing.unreadable.iter().any(|(folder, _)| path.starts_with(folder)) {
                            files.push(path);
                            continue;
                        }
                        let since = *self.gone.get(&path).unwrap_or(&now);
                        if now.duration_since(since) < ABSENCE {
                            gone.insert(path.clone(), since);
                            files.push(path);
                        }
                    }
                    files.sort();
                    files
                }
                _ => earlier.clone(),
            };
            patterns.insert(pattern.clone(), files);
        }
        self.gone = gone;
        patterns
    }

    /// Files that are unusable before their contents are parsed: unreadable or unexpectedly empty.
    fn unusable(&self, disk: &Texts, candidates: &BTreeMap<PathBuf, &str>) -> Broken {
        let mut broken = Broken::new();
        for (folder, error) in self.seen.lists.values().flatten().flat_map(|listing| &listing.unreadable) {
            broken.insert(folder.clone(), vec![problem(folder, format!("cannot read the folder: {error}"))]);
        }
        for (path, text) in disk {
            let had_content = || self.kept(path).is_some_and(|t| !t.trim().is_empty());
            if let Err(error) = text
                && !self.others.contains(path)
            {
                broken.insert(path.clone(), vec![error.clone()]);
            } else if candidates.get(path).is_some_and(|t| t.trim().is_empty()) && had_content() {
                broken.insert(
                    path.clone(),
                    vec![problem(path, "is empty; write [] for a file without integrations")],
                );
            }
        }
        broken
    }

    /// The configuration with the accepted files as they are on disk, and the others as they were.
    fn attempt(
        &self,
        patterns: &BTreeMap<String, Vec<PathBuf>>,
        accepted: &BTreeMap<PathBuf, &str>,
        environment: Environment<'_>,
    ) -> Result<Loaded, Vec<Problem>> {
        let text = |file: &Path| match accepted.get(file) {
            Some(text) => Ok((*text).to_owned()),
            // A new file that is invalid has no last valid list.
            None => Ok(self.kept(file).unwrap_or_default()),
        };
        let list = |pattern: &str| {
            Ok(Listing { files: patterns.get(pattern).cloned().unwrap_or_default(), ..Listing::default() })
        };
        load_with(&self.main, environment, Files { text: &text, list: &list })
    }

    fn followed(
        &self,
        loaded: Loaded,
        patterns: &BTreeMap<String, Vec<PathBuf>>,
        accepted: &BTreeMap<PathBuf, &str>,
        broken: Broken,
    ) -> Followed {
        let text = |path: &PathBuf| match accepted.get(path) {
            Some(text) => Some(gzip(text.as_bytes()).unwrap_or_default()),
            None => self.texts.get(path).cloned(),
        };
        let used = patterns.values().flatten().chain([&self.main]);
        let texts: BTreeMap<PathBuf, Vec<u8>> =
            used.filter_map(|path| Some((path.clone(), text(path)?))).collect();
        let changed = texts != self.texts || *patterns != self.patterns;
        let problems = broken.values().flatten().cloned().collect();
        let (main, others, patterns) = (self.main.clone(), self.others.clone(), patterns.clone());
        let (stamps, seen, gone) = (self.stamps.clone(), self.seen.clone(), self.gone.clone());
        Followed {
            loaded,
            sources: Self { main, texts, patterns, others, stamps, seen, broken, gone },
            broken: problems,
            changed,
        }
    }

    /// The text of a file that is in use.
    fn kept(&self, path: &Path) -> Option<String> {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&self.texts.get(path)?[..]).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// A problem of a file as a whole.
fn problem(path: &Path, message: impl Into<String>) -> Problem {
    Problem {
        file: path.display().to_string(),
        line: 0,
        column: 0,
        path: String::new(),
        message: message.into(),
    }
}

/// Groups problems by file, and leaves out problems outside `files`.
fn offending_files(files: &BTreeMap<PathBuf, &str>, problems: Vec<Problem>) -> Broken {
    let mut by_file = Broken::new();
    for problem in problems {
        if let Some(path) = files.keys().find(|path| path.display().to_string() == problem.file) {
            by_file.entry(path.clone()).or_default().push(problem);
        }
    }
    by_file
}

/// Texts on disk, or why one cannot be read.
type Texts = BTreeMap<PathBuf, Result<String, Problem>>;

fn read(files: &[PathBuf]) -> Texts {
    files
        .iter()
        .map(|path| (path.clone(), read_text(path).map_err(|error| unreadable(path, &error))))
        .collect()
}

fn digests(texts: &Texts) -> BTreeMap<PathBuf, u64> {
    // The reason why a file cannot be read may change, too; then it is reported again.
    let digest = |text: &Result<String, Problem>| {
        let mut hasher = DefaultHasher::new();
        text.as_ref().map_err(|problem| &problem.message).hash(&mut hasher);
        hasher.finish()
    };
    texts.iter().map(|(path, text)| (path.clone(), digest(text))).collect()
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
