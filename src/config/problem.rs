//! Problems of a configuration, and their collection.

use std::cell::RefCell;
use std::path::Path;

use super::include::{Files, Listing, NotText};

/// A problem in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file's path as given.
    pub file: String,
    /// 1-based; 0 when unknown.
    pub line: u64,
    /// 1-based; 0 when unknown.
    pub column: u64,
    /// The key's path, such as `apps.sequr.client_id`.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Finds the value of an environment variable.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// A file that cannot be read, with the position of the fault if it has one.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    let not_text = error.get_ref().and_then(|inner| inner.downcast_ref::<NotText>());
    let (line, column, message) = match not_text {
        Some(place) => (place.line, place.column, place.to_string()),
        None => (0, 0, format!("cannot read the file: {error}")),
    };
    Problem { file: path.display().to_string(), line, column, path: String::new(), message }
}

/// The problems and warnings found while reading one or more files.
pub struct Diagnostics<'e> {
    /// `None` in files where `${NAME}` is not expanded.
    pub(super) environment: Option<Environment<'e>>,
    pub(super) files: Files<'e>,
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) warnings: RefCell<Vec<Problem>>,
}

impl<'e> Diagnostics<'e> {
    /// An empty collection, for files with environment variables.
    pub fn new(environment: Environment<'e>, files: Files<'e>) -> Self {
        Self { environment: Some(environment), files, ..Self::verbatim() }
    }

    /// An empty collection, for a file without environment variables.
    pub fn verbatim() -> Self {
        Self {
            environment: None,
            files: Files::DISK,
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// The text of a file of the configuration.
    pub fn text(&self, file: &Path) -> std::io::Result<String> {
        (self.files.text)(file)
    }

    /// The files that match a pattern.
    pub fn list(&self, pattern: &str) -> Result<Listing, String> {
        (self.files.list)(pattern)
    }

    /// Records a problem.
    pub fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Problems and warnings.
    pub fn into_parts(self) -> (Vec<Problem>, Vec<Problem>) {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        (problems, self.warnings.into_inner())
    }
}
