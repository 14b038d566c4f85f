//! The files of a configuration: reading one, and finding those that match a pattern.

use std::path::{Path, PathBuf};

use crate::secret::{self, Malformed};

/// Where the files of a configuration come from.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations)] // Two functions.
pub struct Files<'e> {
    /// Reads a file.
    pub text: &'e dyn Fn(&Path) -> std::io::Result<String>,
    /// Finds the files that match a pattern. The error says what is wrong with the pattern.
    pub list: &'e dyn Fn(&str) -> Result<Listing, String>,
}

impl Files<'static> {
    /// From the disk.
    pub const DISK: Self = Self { text: &read_text, list: &matching };
}

/// Where and why a file is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotText {
    /// 1-based.
    pub line: u64,
    /// 1-based, in characters.
    pub column: u64,
    /// The encoding fault.
    fault: Malformed,
}

impl std::fmt::Display for NotText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.fault {
            Malformed::Utf16 => f.write_str("the file is UTF-16; save it as UTF-8"),
            _ => f.write_str("here the file is not UTF-8 (Latin-1 or another encoding?); save it as UTF-8"),
        }
    }
}

impl std::error::Error for NotText {}

/// The text of a configuration file, without the byte order mark that some editors on Windows add.
///
/// # Errors
/// The file cannot be read, or is not UTF-8; in the latter case the error contains a [`NotText`] with the position.
pub(super) fn read_text(path: &Path) -> std::io::Result<String> {
    let bytes = std::fs::read(path)?;
    secret::decoded(&bytes).map(str::to_owned).map_err(|fault| {
        let good = match std::str::from_utf8(&bytes) {
            Err(error) if fault != Malformed::Utf16 => String::from_utf8_lossy(&bytes[..error.valid_up_to()]),
            _ => "".into(),
        };
        let last = good.trim_start_matches('\u{FEFF}').rsplit('\n').next().unwrap_or_default();
        let (line, column) = (1 + good.matches('\n').count() as u64, 1 + last.chars().count() as u64);
        std::io::Error::new(std::io::ErrorKind::InvalidData, NotText { line, column, fault })
    })
}

/// Files that match a pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted.
    pub files: Vec<PathBuf>,
    /// Folders that could not be read, and why.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// The literal folder that a pattern begins with, and whether the pattern reaches into its subfolders.
pub(super) fn literal_start(pattern: &str) -> (PathBuf, bool) {
    let parts: Vec<_> = Path::new(pattern).components().collect();
    let plain =
        parts.iter().take_while(|p| !p.as_os_str().to_string_lossy().contains(['*', '?', '['])).count();
    // The last part is a file's name in any case.
    let plain = plain.min(parts.len().saturating_sub(1));
    let folder: PathBuf = parts[..plain].iter().collect();
    let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
    (folder, parts.len() - plain > 1)
}

/// Files on disk that match a pattern. Hidden files belong to editors or Kubernetes volumes and are left out, unless the pattern itself
/// begins with a dot. A folder that does not exist counts as empty; one that cannot be read is listed as unreadable.
pub fn matching(pattern: &str) -> Result<Listing, String> {
    let entries = glob::glob(pattern)
        .map_err(|error| format!("is not a file pattern such as integrations.d/*.yml: {}", error.msg))?;
    let mut listing = Listing::default();
    let (start, _) = literal_start(pattern);
    match std::fs::metadata(&start) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            listing.unreadable.push((start, error.to_string()));
        }
        _ => {}
    }
    for entry in entries {
        match entry {
            Ok(path) => listing.files.push(path),
            Err(error) => listing.unreadable.push((error.path().to_owned(), error.error().to_string())),
        }
    }
    let is_hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
    let asked_for = Path::new(pattern).file_name().is_some_and(is_hidden);
    let hidden = |path: &PathBuf| !asked_for && path.file_name().is_some_and(is_hidden);
    // A folder is not a list, and reading a pipe would block.
    let other = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|m| !m.is_file());
    listing.files.retain(|path| !hidden(path) && !other(path));
    listing.files.sort();
    Ok(listing)
}
