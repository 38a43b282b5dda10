//! Files to serve: the same bytes on every run, with their checksums.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path};

use sha2::{Digest, Sha256};

use crate::error::{LabError, Result};
use crate::lab::Lab;
use crate::place::Place;

/// A file of a [`FileSet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentFile {
    /// Its path below the document root, `n1/5.bin`.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
    seed: u64,
}

/// Files with pseudo-random bytes. Path, size and the set's seed alone decide what a file holds.
#[derive(Clone, Debug, Default)]
pub struct FileSet {
    files: Vec<ContentFile>,
    seed: u64,
}

impl FileSet {
    /// An empty set. Sets with different seeds hold different bytes.
    pub fn new(seed: u64) -> Self {
        Self {
            files: Vec::new(),
            seed,
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When the path is not one below the document root.
    pub fn add(&mut self, path: impl Into<String>, size: u64) -> Result<&mut Self> {
        let path = path.into();
        let normal = |component: Component<'_>| matches!(component, Component::Normal(_));
        if path.is_empty() || !Path::new(&path).components().all(normal) {
            return Err(LabError::InvalidSpec(format!(
                "content path `{path}`; write one without a leading `/` and without `..`"
            )));
        }
        let seed = path.bytes().fold(self.seed ^ size, |seed, byte| {
            // FNV-1a's step (its 64-bit prime), enough to tell paths apart.
            (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut hash = Sha256::new();
        write_bytes(seed, size, &mut hash).map_err(LabError::system("cannot hash"))?;
        let sha256 = hex(&hash.finalize());
        self.files.push(ContentFile {
            path,
            size,
            sha256,
            seed,
        });
        Ok(self)
    }

    /// The files.
    pub fn files(&self) -> &[ContentFile] {
        &self.files
    }

    /// Writes the files below a directory.
    pub fn write_to(&self, root: &Path) -> Result<()> {
        for file in &self.files {
            let path = root.join(&file.path);
            let dir = path.parent().unwrap_or(root);
            fs::create_dir_all(dir).map_err(LabError::io("cannot make directory", dir))?;
            let write = || {
                let mut out = BufWriter::new(File::create(&path)?);
                write_bytes(file.seed, file.size, &mut out)?;
                out.flush()
            };
            write().map_err(LabError::io("cannot write", &path))?;
        }
        Ok(())
    }
}

impl ContentFile {
    /// What the file holds.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size as usize);
        write_bytes(self.seed, self.size, &mut bytes).expect("writing to memory does not fail");
        bytes
    }
}

impl Lab {
    /// Writes files to the document roots of nodes. More nodes share one copy on disk.
    pub fn publish(&self, places: &[Place], files: &FileSet) -> Result<()> {
        let Some((first, others)) = places.split_first() else {
            return Ok(());
        };
        let original = self.docroot(*first);
        files.write_to(&original)?;
        for file in files.files() {
            let source = original.join(&file.path);
            for place in others {
                let path = self.docroot(*place).join(&file.path);
                let link = || {
                    path.parent().map_or(Ok(()), fs::create_dir_all)?;
                    match fs::remove_file(&path) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                        _ => fs::hard_link(&source, &path),
                    }
                };
                link().map_err(LabError::io("cannot link", &path))?;
            }
        }
        Ok(())
    }
}

/// SHA-256 of some bytes as [`ContentFile::sha256`] has it.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn write_bytes(seed: u64, size: u64, out: &mut impl Write) -> io::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut block = [0; 8192];
    let mut left = size;
    while left > 0 {
        random.fill(&mut block);
        let part = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        out.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_what_their_checksums_say() {
        let mut files = FileSet::new(1);
        files
            .add("a/1.bin", 1)
            .unwrap()
            .add("a/2.bin", 100_000)
            .unwrap()
            .add("empty", 0)
            .unwrap();
        let root = tempfile::tempdir().unwrap();
        files.write_to(root.path()).unwrap();
        for file in files.files() {
            let bytes = fs::read(root.path().join(&file.path)).unwrap();
            assert_eq!(bytes.len() as u64, file.size);
            assert_eq!(sha256(&bytes), file.sha256);
            assert_eq!(bytes, file.bytes());
        }
    }

    #[test]
    fn content_depends_on_seed_path_and_size_only() {
        let one = |seed, path: &str, size| {
            let mut files = FileSet::new(seed);
            files.add(path, size).unwrap();
            files.files()[0].sha256.clone()
        };
        let same = one(1, "a", 1000);
        assert_eq!(same, one(1, "a", 1000));
        for other in [one(2, "a", 1000), one(1, "b", 1000), one(1, "a", 1001)] {
            assert_ne!(same, other);
        }
    }

    #[test]
    fn paths_stay_below_the_root() {
        for path in ["", "/etc/x", "../x", "a/../../x", "./a"] {
            assert!(FileSet::new(1).add(path, 1).is_err(), "{path}");
        }
    }
}
