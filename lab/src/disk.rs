//! A node's disk: a directory on a real file system, and a control group with a page cache and a read
//! speed of its own, in which what the node's programs read is counted.
//!
//! Only programs that [`Lab::spawn_on_disk`] starts are in the group. A node's other programs, such as
//! an application server whose heap has nothing to do with the disk, don't take memory from its page cache.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Advice, fadvise, statvfs};

use crate::cgroup::{self, Hierarchy, NodeGroup};
use crate::error::{LabError, Result};
use crate::lab::Lab;
use crate::place::Place;
use crate::process::LabProcess;
use crate::spec::DiskSpec;

/// The directory with a subdirectory per lab; unlike `/run`, it is not in memory.
const ROOT: &str = "/var/tmp/dts-lab";
/// What must stay free on the file system.
const RESERVE: u64 = 2 << 30;

/// A control group, and the device that is limited and counted.
pub(crate) struct DiskGroup {
    group: NodeGroup,
    io: Io,
    /// Major and minor number, `254:0`.
    device: String,
}

/// Where reads are limited and counted.
enum Io {
    V1(PathBuf),
    V2(PathBuf),
}

impl Lab {
    /// The directory of a place's disk, for files whose reads are to be real ones. It is removed with
    /// the lab.
    pub fn disk_dir(&self, place: Place) -> PathBuf {
        lab_dir(&self.spec().name).join(place.to_string())
    }

    /// Fails when the file system of the disks has no room for so many bytes more.
    pub fn check_disk_space(&self, bytes: u64) -> Result<()> {
        let path = lab_dir(&self.spec().name);
        let stat = statvfs(&path).map_err(|e| LabError::io("cannot look at", &path)(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        match free >= bytes.saturating_add(RESERVE) {
            true => Ok(()),
            false => Err(LabError::InvalidSpec(format!(
                "{} has {} MB free, and {} MB are to be written and {} MB left free",
                path.display(),
                free >> 20,
                bytes >> 20,
                RESERVE >> 20
            ))),
        }
    }

    /// Takes a place's files out of memory, so that whoever reads them next waits for the disk, and has
    /// them counted as its own. What was written goes to the disk first.
    pub fn drop_disk_cache(&self, place: Place) -> Result<()> {
        let path = self.disk_dir(place);
        let dir = File::open(&path).map_err(LabError::io("cannot open", &path))?;
        rustix::fs::syncfs(&dir).map_err(|e| LabError::io("cannot sync", &path)(e.into()))?;
        drop_below(&path).map_err(LabError::io("cannot drop from memory what is in", &path))
    }

    /// Starts a program as [`Lab::spawn`] does, which shares the disk's page cache and speed.
    pub fn spawn_on_disk(&self, place: Place, command: &Command) -> Result<LabProcess> {
        let group = self.disk_group(place)?;
        let program = Path::new(command.get_program());
        let tag = program.file_name().unwrap_or_default().to_string_lossy();
        self.spawn_tagged(place, &format!("{tag}-disk"), &group.group.wrap(command))
    }

    /// Bytes that a node's programs on its disk have read from it, not from memory, since the lab was made.
    pub fn disk_read_bytes(&self, place: Place) -> Result<u64> {
        self.disk_group(place)?.read_bytes()
    }

    /// Bytes of memory that these programs and their page cache use now.
    pub fn disk_memory(&self, place: Place) -> Result<u64> {
        self.disk_group(place)?.memory()
    }

    /// Changes how fast a node's disk is read; `None`: as fast as it can be.
    pub fn set_disk_speed(&self, place: Place, read_bps: Option<u64>) -> Result<()> {
        self.disk_group(place)?.set_read_bps(read_bps)
    }

    /// What is known of the device that the disks are on, in words.
    pub fn disk_device(&self, place: Place) -> Result<String> {
        let device = self.disk_group(place)?.device;
        let queue = PathBuf::from(format!("/sys/dev/block/{device}/queue"));
        let setting = |name: &str| fs::read_to_string(queue.join(name)).unwrap_or_default();
        Ok(format!(
            "{device}, read ahead {} KB, scheduler {}",
            setting("read_ahead_kb").trim(),
            setting("scheduler").trim()
        ))
    }

    pub(crate) fn disk_group(&self, place: Place) -> Result<DiskGroup> {
        let group = self.disk_group_name(place);
        let device = device_of(&self.disk_dir(place))?;
        DiskGroup::open(Path::new(cgroup::ROOT), &group, device)
    }

    /// Makes a node's directory and group, if it is to have them.
    pub(crate) fn make_disk(&self, place: Place) -> Result<()> {
        let Place::Node(i) = place else { return Ok(()) };
        let Some(spec) = &self.spec().nodes[usize::from(i) - 1].disk else {
            return Ok(());
        };
        let dir = self.disk_dir(place);
        fs::create_dir_all(&dir).map_err(LabError::io("cannot make directory", &dir))?;
        let root = Path::new(cgroup::ROOT);
        let device = device_of(&dir)?;
        DiskGroup::create(root, &self.disk_group_name(place), device, spec).map(drop)
    }

    fn disk_group_name(&self, place: Place) -> String {
        // Removed with all groups that begin with the lab's name and a dash.
        format!("{}-{place}-disk", self.spec().name)
    }
}

impl DiskGroup {
    fn create(root: &Path, group: &str, device: String, spec: &DiskSpec) -> Result<Self> {
        match cgroup::find(root, "blkio") {
            Ok(Hierarchy::V1(tree)) => drop(cgroup::make(&tree, group)?),
            _ => match cgroup::find(root, "io")? {
                Hierarchy::V1(tree) | Hierarchy::V2(tree) => {
                    cgroup::make_v2(&tree, group, "io")?;
                }
            },
        }
        // Also without a limit: the group says what the cache holds.
        let (memory, file) = match cgroup::find(root, "memory")? {
            Hierarchy::V1(tree) => (cgroup::make(&tree, group)?, "memory.limit_in_bytes"),
            Hierarchy::V2(tree) => (cgroup::make_v2(&tree, group, "memory")?, "memory.max"),
        };
        if let Some(bytes) = spec.memory_limit {
            cgroup::write(&memory, file, &bytes.to_string())?;
        }
        let group = Self::open(root, group, device)?;
        if spec.read_bps.is_some() {
            group.set_read_bps(spec.read_bps)?;
        }
        Ok(group)
    }

    fn open(root: &Path, name: &str, device: String) -> Result<Self> {
        let group = NodeGroup::open(root, name);
        let v1 = root.join("blkio");
        let io = group.as_ref().and_then(|group| {
            let dirs = || group.dirs().iter();
            match dirs().find(|dir| dir.starts_with(&v1)) {
                Some(dir) => Some(Io::V1(dir.clone())),
                None => dirs()
                    .find(|dir| !dir.starts_with(root.join("memory")))
                    .map(|dir| Io::V2(dir.clone())),
            }
        });
        match (group, io) {
            (Some(group), Some(io)) => Ok(Self { group, io, device }),
            _ => Err(LabError::InvalidSpec(format!(
                "there is no control group {name}: the node has no disk"
            ))),
        }
    }

    /// The processes in the group.
    pub(crate) fn processes(&self) -> BTreeSet<u32> {
        self.group.processes()
    }

    fn set_read_bps(&self, read_bps: Option<u64>) -> Result<()> {
        let device = &self.device;
        match (&self.io, read_bps) {
            (Io::V1(dir), bps) => cgroup::write(
                dir,
                "blkio.throttle.read_bps_device",
                // 0 takes the limit away.
                &format!("{device} {}", bps.unwrap_or(0)),
            ),
            (Io::V2(dir), None) => cgroup::write(dir, "io.max", &format!("{device} rbps=max")),
            (Io::V2(dir), Some(bps)) => {
                cgroup::write(dir, "io.max", &format!("{device} rbps={bps}"))
            }
        }
    }

    fn read_bytes(&self) -> Result<u64> {
        let path = match &self.io {
            Io::V1(dir) => dir.join("blkio.throttle.io_service_bytes_recursive"),
            Io::V2(dir) => dir.join("io.stat"),
        };
        let text = fs::read_to_string(&path).map_err(LabError::io("cannot read", &path))?;
        Ok(match &self.io {
            Io::V1(_) => read_bytes_v1(&text, &self.device),
            Io::V2(_) => read_bytes_v2(&text, &self.device),
        })
    }

    fn memory(&self) -> Result<u64> {
        let files = ["memory.usage_in_bytes", "memory.current"];
        let paths = self
            .group
            .dirs()
            .iter()
            .flat_map(|dir| files.map(|f| dir.join(f)));
        let text = paths
            .filter_map(|path| fs::read_to_string(path).ok())
            .next();
        let bytes = text.and_then(|text| text.trim().parse().ok());
        bytes.ok_or_else(|| LabError::NoController {
            controller: "memory",
            root: PathBuf::from(cgroup::ROOT),
        })
    }
}

/// Removes a lab's directories; what could not be removed, in words.
pub(crate) fn remove(lab: &str) -> Result<(), String> {
    let dir = lab_dir(lab);
    let result = match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", dir.display()))
        }
        _ => Ok(()),
    };
    // Other labs' may be in it.
    let _ = fs::remove_dir(ROOT);
    result
}

/// The labs that have a directory here.
pub(crate) fn lab_names() -> Vec<String> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn lab_dir(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// Major and minor number of the disk that a directory is on. Limits are a disk's, not a partition's.
fn device_of(dir: &Path) -> Result<String> {
    let metadata = fs::metadata(dir).map_err(LabError::io("cannot look at", dir))?;
    let number = metadata.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if !device.exists() {
        return Err(LabError::InvalidSpec(format!(
            "{} is not on a block device of its own (device {major}:{minor}), so its reads can be \
             neither counted nor limited",
            dir.display()
        )));
    }
    if !device.join("partition").exists() {
        return Ok(format!("{major}:{minor}"));
    }
    let path = device.join("../dev");
    let whole = fs::canonicalize(&device)
        .and_then(|partition| fs::read_to_string(partition.join("../dev")))
        .map_err(LabError::io("cannot read", &path))?;
    Ok(whole.trim().to_owned())
}

fn drop_below(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            drop_below(&entry.path())?;
        } else if kind.is_file() {
            fadvise(&File::open(entry.path())?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// `254:0 Read 4096`, a line per device and kind.
fn read_bytes_v1(text: &str, device: &str) -> u64 {
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix(device)?.strip_prefix(" Read ")?;
        rest.trim().parse().ok()
    });
    // Without a line nothing was read.
    line.unwrap_or(0)
}

/// `254:0 rbytes=4096 wbytes=0 ...`, a line per device.
fn read_bytes_v2(text: &str, device: &str) -> u64 {
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix(device)?.strip_prefix(' ')?;
        let bytes = rest.split(' ').find_map(|f| f.strip_prefix("rbytes="))?;
        bytes.parse().ok()
    });
    line.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_bytes_are_those_of_the_device() {
        let v1 = "254:0 Read 16777216\n254:0 Write 5\n254:16 Read 7\nTotal 16777228\n";
        assert_eq!(read_bytes_v1(v1, "254:0"), 16_777_216);
        assert_eq!(read_bytes_v1(v1, "254:16"), 7);
        assert_eq!(read_bytes_v1("Total 0\n", "254:0"), 0);
        let v2 = "254:16 rbytes=7 wbytes=0\n254:0 rbytes=4096 wbytes=0 rios=1\n";
        assert_eq!(read_bytes_v2(v2, "254:0"), 4096);
        assert_eq!(read_bytes_v2("", "254:0"), 0);
    }

    #[test]
    fn v1_and_v2_are_limited_where_they_are_counted() {
        let spec = DiskSpec {
            memory_limit: Some(64 << 20),
            read_bps: Some(2_000_000),
        };
        let device = || "254:0".to_owned();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();

        let v1 = tempfile::tempdir().unwrap();
        for controller in ["blkio", "memory"] {
            fs::create_dir(v1.path().join(controller)).unwrap();
            fs::write(v1.path().join(controller).join("cgroup.procs"), "").unwrap();
        }
        DiskGroup::create(v1.path(), "t-n1-disk", device(), &spec).unwrap();
        let limit = read(
            v1.path()
                .join("blkio/dts-lab/t-n1-disk/blkio.throttle.read_bps_device"),
        );
        assert_eq!(limit, "254:0 2000000");
        let limit = read(
            v1.path()
                .join("memory/dts-lab/t-n1-disk/memory.limit_in_bytes"),
        );
        assert_eq!(limit, "67108864");

        let v2 = tempfile::tempdir().unwrap();
        fs::write(v2.path().join("cgroup.controllers"), "cpu io memory\n").unwrap();
        let group = DiskGroup::create(v2.path(), "t-n1-disk", device(), &spec).unwrap();
        let limit = v2.path().join("dts-lab/t-n1-disk/io.max");
        assert_eq!(read(limit.clone()), "254:0 rbps=2000000");
        group.set_read_bps(None).unwrap();
        assert_eq!(read(limit), "254:0 rbps=max");
    }
}
