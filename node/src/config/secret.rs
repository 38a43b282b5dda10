//! The secret that the cluster's nodes share.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use dts_core::ring::RingHash;
use hkdf::Hkdf;
use sha2::Sha256;

use super::model::HashKind;

/// Length in bytes.
const LENGTH: usize = 32;

/// A file that is longer than this is not a secret, whatever it is.
const MAX_FILE: u64 = 4096;

/// 32 random bytes that all nodes of a cluster have and nobody else. Keys are derived from it; it is
/// never used itself, and never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; LENGTH]);

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error(
        "{}: cannot read the cluster's secret: {source}; `dts secret` makes one",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{}: not a secret: expected 64 hexadecimal digits, found {found}; `dts secret` makes one",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it holds instead, without quoting it.
        found: String,
    },
    /// The file can't be made.
    #[error("{}: cannot write the secret: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no randomness.
    #[error("the system gives no random bytes: {0}")]
    NoRandomness(getrandom::Error),
}

impl Secret {
    /// Makes a new secret from the system's random numbers.
    ///
    /// # Errors
    ///
    /// When the system has none.
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes).map_err(SecretError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// Reads a secret: 64 hexadecimal digits, and white space around them.
    ///
    /// Logs a warning when others than the file's owner can read it.
    ///
    /// # Errors
    ///
    /// When the file can't be read or holds something else.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let unreadable = |source| SecretError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode();
        let mut text = Vec::new();
        file.take(MAX_FILE)
            .read_to_end(&mut text)
            .map_err(unreadable)?;
        if mode & 0o077 != 0 {
            tracing::warn!(
                "{}: others can access the cluster's secret (mode {:03o}): run `chmod 600` on it",
                path.display(),
                mode & 0o777
            );
        }
        let malformed = |found| SecretError::Malformed {
            path: path.to_owned(),
            found,
        };
        let digits = text.trim_ascii();
        let mut bytes = [0; LENGTH];
        match hex::decode_to_slice(digits, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(hex::FromHexError::InvalidHexCharacter { index, .. }) => Err(malformed(format!(
                "something else at character {}",
                index + 1
            ))),
            Err(_) => Err(malformed(format!("{} characters", digits.len()))),
        }
    }

    /// Writes the secret to a new file that only its owner may read.
    ///
    /// # Errors
    ///
    /// When the file exists already or can't be written.
    pub fn save_new(&self, path: &Path) -> Result<(), SecretError> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        file.and_then(|mut file| file.write_all(format!("{}\n", self.to_hex()).as_bytes()))
            .map_err(|source| SecretError::Unwritable {
                path: path.to_owned(),
                source,
            })
    }

    /// The secret as it is written in a file.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// A key for the purpose that `label` names: HKDF-SHA256 (RFC 5869) with the salt `DTS` and the
    /// label as info. Different labels give independent keys.
    pub fn derive(&self, label: &str) -> [u8; 16] {
        let mut key = [0; 16];
        Hkdf::<Sha256>::new(Some(b"DTS"), &self.0)
            .expand(label.as_bytes(), &mut key)
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        key
    }

    /// The ring's hash, with its key (label `ring`) if it has one.
    pub fn ring_hash(&self, kind: HashKind) -> RingHash {
        match kind {
            HashKind::Md5 => RingHash::Md5,
            HashKind::SipHash => RingHash::SipHash {
                key: self.derive("ring"),
            },
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(contents: &str) -> Result<Secret, SecretError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, contents).unwrap();
        Secret::load(&path)
    }

    #[test]
    fn a_secret_survives_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let secret = Secret::generate().unwrap();
        secret.save_new(&path).unwrap();
        assert_eq!(Secret::load(&path).unwrap(), secret);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(
            secret.save_new(&path),
            Err(SecretError::Unwritable { .. })
        ));
        assert_ne!(Secret::generate().unwrap(), secret);
    }

    #[test]
    fn keys_are_those_of_hkdf_and_differ_by_label() {
        let secret = Secret([7; LENGTH]);
        // Made with Python's hmac: expand(extract(b"DTS", bytes([7] * 32)), b"ring", 16).
        assert_eq!(
            hex::encode(secret.derive("ring")),
            "daaf70f070760d22b14cc18a5108ccb8"
        );
        assert_ne!(secret.derive("ring"), secret.derive("handover"));
        assert_ne!(secret.derive("ring"), Secret([8; LENGTH]).derive("ring"));
    }

    #[test]
    fn what_is_no_secret_is_described_but_not_quoted() {
        let message = |contents: &str| loaded(contents).unwrap_err().to_string();
        assert!(message("").contains("found 0 characters"));
        assert!(message(&"ab".repeat(31)).contains("found 62 characters"));
        assert!(message(&"ab".repeat(40)).contains("found 80 characters"));
        let mistyped = message(&format!("{}xy{}", "ab".repeat(3), "ab".repeat(28)));
        assert!(
            mistyped.contains("something else at character 7"),
            "{mistyped}"
        );
        assert!(!mistyped.contains("abab"));
        assert!(loaded(&format!(" {}\n\n", "aB".repeat(32))).is_ok());
    }

    #[test]
    fn a_missing_file_says_how_to_make_one() {
        let message = Secret::load(Path::new("/nonexistent/secret"))
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("/nonexistent/secret: cannot read"),
            "{message}"
        );
        assert!(message.contains("`dts secret` makes one"), "{message}");
    }

    #[test]
    fn a_debug_print_shows_nothing() {
        assert_eq!(format!("{:?}", Secret([7; LENGTH])), "Secret(..)");
    }
}
