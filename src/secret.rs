//! Secrets: values that reach the wire and the encrypted column, and nothing else.

use std::path::{Path, PathBuf};

/// A secret text. `Debug` hides it; there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Given in the configuration.
    Inline(Secret),
    /// Kept in a file that is read at every use, because files of secrets change under a running daemon.
    File(PathBuf),
}

impl SecretSource {
    /// The present secret, without the line end that editors add.
    ///
    /// # Errors
    /// The file cannot be read, is not text, or holds nothing.
    pub fn read(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => read_file(path),
        }
    }
}

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds only white space.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
}

fn read_file(path: &Path) -> Result<Secret, SecretError> {
    let text = std::fs::read_to_string(path).map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.trim().is_empty() {
        return Err(SecretError::Empty(path.to_owned()));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_text() {
        let source = SecretSource::Inline(Secret::new("hunter2"));
        assert!(!format!("{source:?}").contains("hunter2"));
    }
}
