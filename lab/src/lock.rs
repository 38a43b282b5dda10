//! One lab operation at a time on this machine, and the directory that holds all labs.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{LabError, Result};

/// The directory with a subdirectory per lab.
pub(crate) const ROOT: &str = "/run/dts-lab";

/// The machine-wide lock. Held while something is made or removed; released when dropped.
pub(crate) struct Lock {
    dir: File,
}

impl Lock {
    /// Waits for the lock. The lock is the directory itself, so that nothing is left of it when the
    /// last lab is gone.
    pub(crate) fn acquire() -> Result<Self> {
        loop {
            fs::create_dir_all(ROOT).map_err(LabError::io("cannot make directory", ROOT))?;
            let dir = match File::open(ROOT) {
                Ok(dir) => dir,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(LabError::io("cannot open directory", ROOT)(error)),
            };
            flock(&dir, FlockOperation::LockExclusive)
                .map_err(LabError::system("cannot lock /run/dts-lab"))?;
            // The holder before us may have removed it: then this is the lock of nothing.
            let locked = dir.metadata().map_err(LabError::io("cannot read", ROOT))?;
            match fs::metadata(ROOT) {
                Ok(current) if current.ino() == locked.ino() => return Ok(Self { dir }),
                _ => continue,
            }
        }
    }

    /// The lock for another process: it is released when both have closed it.
    pub(crate) fn share(&self) -> Result<File> {
        let dir = self.dir.try_clone();
        dir.map_err(LabError::io("cannot share the lock of", ROOT))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Goes only when it is empty.
        let _ = fs::remove_dir(ROOT);
    }
}

/// The directory of a lab.
pub(crate) fn lab_dir(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}
