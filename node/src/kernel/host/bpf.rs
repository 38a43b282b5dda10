//! What the filter needs of the host besides its networks.

use std::io;
use std::path::Path;

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

use super::error::HostError;

/// Where the BPF file system belongs.
const BPF_FS: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC` in linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Checks that the kernel has what the filter needs and that maps can be pinned in `pin_dir`, which
/// need not exist yet. Mounts the BPF file system at /sys/fs/bpf if `pin_dir` is below and nobody
/// has done so; it stays mounted, as it does with everybody who mounts it.
///
/// # Errors
///
/// [`HostError::NoBtf`], [`HostError::NotBpfFs`], or [`HostError::MountBpfFs`].
pub fn prepare_bpf(pin_dir: &Path) -> Result<(), HostError> {
    if !Path::new(BTF).exists() {
        return Err(HostError::NoBtf { path: BTF });
    }
    if is_on_bpf_fs(pin_dir)? {
        return Ok(());
    }
    if pin_dir.starts_with(BPF_FS) && !is_on_bpf_fs(Path::new(BPF_FS))? {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(c"bpf", BPF_FS, c"bpf", flags, c"mode=0700").map_err(|error| {
            HostError::MountBpfFs {
                source: error.into(),
            }
        })?;
        if is_on_bpf_fs(pin_dir)? {
            return Ok(());
        }
    }
    Err(HostError::NotBpfFs {
        pin_dir: pin_dir.to_owned(),
    })
}

/// Asks for the file system of the directory or, as it may not exist yet, of the nearest one above
/// it.
fn is_on_bpf_fs(dir: &Path) -> Result<bool, HostError> {
    for dir in dir.ancestors() {
        match statfs(dir) {
            Ok(fs) => return Ok(fs.f_type as u64 == BPF_FS_MAGIC),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let what = format!("tell the file system of {}", dir.display());
                return Err(HostError::kernel(what)(error));
            }
        }
    }
    Ok(false)
}
