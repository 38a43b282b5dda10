//! A node's share of the machine: one control group per node, cgroup v1 or v2.
//!
//! The group holds the node's processes *and its receive path*: with GRO on, a veth has a NAPI
//! context, threaded NAPI makes that context a kernel thread, and a kernel thread can be put into a
//! group. Without this, packets are processed in soft interrupts that no quota counts, and a "10 %
//! node" serves far more than a tenth.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{LabError, Result};
use crate::process::{copy_settings, wait_until};
use crate::spec::NodeSpec;

/// Where the control groups are mounted.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// The group that holds all labs' groups.
const PARENT: &str = "dts-lab";

/// How a controller is mounted.
#[derive(Debug, PartialEq)]
pub(crate) enum Hierarchy {
    /// cgroup v1: a tree per controller.
    V1(PathBuf),
    /// cgroup v2: one tree for all.
    V2(PathBuf),
}

/// The control group of one node: a directory per hierarchy that limits something.
#[derive(Clone, Debug)]
pub(crate) struct NodeGroup {
    dirs: BTreeSet<PathBuf>,
}

impl NodeGroup {
    /// Makes the group that `spec` asks for; `None` when the node has no limit. The quota is not in force yet: that is
    /// [`set_quota`]'s.
    pub(crate) fn create(root: &Path, group: &str, spec: &NodeSpec) -> Result<Option<Self>> {
        let mut dirs = BTreeSet::new();
        if spec.cpu_quota.is_some() {
            match find(root, "cpu")? {
                Hierarchy::V1(tree) => {
                    dirs.insert(make(&tree, group)?);
                    dirs.extend(make_accounting(root, group)?);
                }
                Hierarchy::V2(tree) => {
                    dirs.insert(make_v2(&tree, group, "cpu")?);
                }
            }
        }
        if let Some(bytes) = spec.memory_limit {
            let (dir, file) = match find(root, "memory")? {
                Hierarchy::V1(tree) => (make(&tree, group)?, "memory.limit_in_bytes"),
                Hierarchy::V2(tree) => (make_v2(&tree, group, "memory")?, "memory.max"),
            };
            write(&dir, file, &bytes.to_string())?;
            dirs.insert(dir);
        }
        Ok((!dirs.is_empty()).then_some(Self { dirs }))
    }

    /// Makes a group that limits nothing: it counts processor time.
    pub(crate) fn create_counting(root: &Path, group: &str) -> Result<Self> {
        let dir = match find(root, "cpu")? {
            Hierarchy::V1(tree) => match make_accounting(root, group)? {
                Some(dir) => dir,
                None => make(&tree, group)?,
            },
            Hierarchy::V2(tree) => make_v2(&tree, group, "cpu")?,
        };
        Ok(Self {
            dirs: BTreeSet::from([dir]),
        })
    }

    /// Processor time that the group has used, if one of its directories counts it.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        self.dirs.iter().find_map(|dir| {
            if let Ok(text) = fs::read_to_string(dir.join("cpuacct.usage")) {
                return Some(Duration::from_nanos(text.trim().parse().ok()?));
            }
            let text = fs::read_to_string(dir.join("cpu.stat")).ok()?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("usage_usec "))?;
            Some(Duration::from_micros(line.trim().parse().ok()?))
        })
    }

    /// The group as an earlier [`NodeGroup::create`] left it.
    pub(crate) fn open(root: &Path, group: &str) -> Option<Self> {
        let dirs: BTreeSet<_> = directories(root)
            .map(|dir| dir.join(group))
            .filter(|dir| dir.is_dir())
            .collect();
        (!dirs.is_empty()).then_some(Self { dirs })
    }

    /// Its directories, one per hierarchy.
    pub(crate) fn dirs(&self) -> &BTreeSet<PathBuf> {
        &self.dirs
    }

    /// The processes and kernel threads in the group.
    pub(crate) fn processes(&self) -> BTreeSet<u32> {
        let lists = self
            .dirs
            .iter()
            .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
        lists
            .flat_map(|list| {
                list.lines()
                    .filter_map(|line| line.parse().ok())
                    .collect::<Vec<u32>>()
            })
            .collect()
    }

    /// A command that enters the group and then becomes `command`, so that no child of it escapes.
    pub(crate) fn wrap(&self, command: &Command) -> Command {
        let mut script = String::new();
        for dir in &self.dirs {
            // The paths come from a validated lab name: nothing to quote.
            script += &format!("echo $$ > {}/cgroup.procs || exit 125; ", dir.display());
        }
        script += "exec \"$@\"";
        let mut wrapped = Command::new("sh");
        wrapped
            .args(["-c", &script, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        copy_settings(command, &mut wrapped);
        wrapped
    }

    /// Runs `enable`, which makes the receive path of an interface a kernel thread, and puts that
    /// thread into the group.
    ///
    /// The caller holds the machine-wide lock: the new thread is recognised by not having been
    /// there before.
    pub(crate) fn adopt_receive_path(
        &self,
        interface: &str,
        enable: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let before = napi_threads(interface);
        enable()?;
        let threads: Vec<i32> = napi_threads(interface)
            .difference(&before)
            .copied()
            .collect();
        if threads.is_empty() {
            return Err(LabError::InvalidSpec(format!(
                "the kernel made no NAPI thread for {interface}, so the receive path cannot be \
                 part of the CPU quota; \
                 that takes Linux 5.12 and GRO on veth"
            )));
        }
        for dir in &self.dirs {
            for thread in &threads {
                move_kernel_thread(dir, *thread)?;
            }
        }
        Ok(())
    }
}

/// Limits the processor time of a group that has a CPU quota to so many cores; `None` lifts the limit.
pub(crate) fn set_quota(root: &Path, group: &str, cores: Option<f32>) -> Result<()> {
    let period = cores.map_or(Duration::from_millis(100), cpu_period);
    let quota = cores
        .map(|cores| Duration::from_secs_f64(period.as_secs_f64() * f64::from(cores)).as_micros());
    let period = period.as_micros();
    match find(root, "cpu")? {
        Hierarchy::V1(tree) => {
            let dir = tree.join(PARENT).join(group);
            // Lifted first: the kernel refuses a period in which the quota in force would be too small.
            write(&dir, "cpu.cfs_quota_us", "-1")?;
            write(&dir, "cpu.cfs_period_us", &period.to_string())?;
            match quota {
                Some(quota) => write(&dir, "cpu.cfs_quota_us", &quota.to_string()),
                None => Ok(()),
            }
        }
        Hierarchy::V2(tree) => {
            let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            let dir = tree.join(PARENT).join(group);
            write(&dir, "cpu.max", &format!("{quota} {period}"))
        }
    }
}

/// Removes the group of a node wherever it is; what could not be removed, in words.
pub(crate) fn remove(root: &Path, lab: &str) -> Result<(), String> {
    let prefix = format!("{lab}-");
    let mut left = Vec::new();
    for parent in directories(root) {
        for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with(&prefix) || !entry.path().is_dir() {
                continue;
            }
            // The kernel threads of interfaces that were just removed take a moment to end.
            let mut result = Ok(());
            wait_until(Duration::from_secs(5), || {
                result = fs::remove_dir(entry.path());
                result.is_ok()
            });
            if let Err(error) = result {
                left.push(format!("control group {}: {error}", entry.path().display()));
            }
        }
        // Other labs' groups may be in it.
        let _ = fs::remove_dir(parent);
    }
    if left.is_empty() {
        Ok(())
    } else {
        Err(left.join("; "))
    }
}

/// The period over which a quota is enforced: as short as the kernel's minimum of 1 ms per period
/// allows, so that a node with a few percent of a core answers steadily and not in bursts, ten
/// times a second.
fn cpu_period(cores: f32) -> Duration {
    Duration::from_secs_f64((0.001 / f64::from(cores)).clamp(0.01, 0.1))
}

/// Where a controller is mounted.
pub(crate) fn find(root: &Path, controller: &'static str) -> Result<Hierarchy> {
    let v1 = root.join(controller);
    let v1_file = if controller == "cpu" {
        "cpu.cfs_quota_us"
    } else {
        "memory.limit_in_bytes"
    };
    if v1.join(v1_file).exists() || v1.join("cgroup.procs").exists() {
        return Ok(Hierarchy::V1(v1));
    }
    for v2 in [root.to_path_buf(), root.join("unified")] {
        let controllers = fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
        if controllers
            .split_whitespace()
            .any(|available| available == controller)
        {
            return Ok(Hierarchy::V2(v2));
        }
    }
    Err(LabError::NoController {
        controller,
        root: root.to_path_buf(),
    })
}

/// The places where labs' groups may be.
fn directories(root: &Path) -> impl Iterator<Item = PathBuf> {
    let trees = [
        root.join("cpu"),
        root.join("cpuacct"),
        root.join("memory"),
        root.join("blkio"),
        root.to_path_buf(),
        root.join("unified"),
    ];
    trees
        .into_iter()
        .map(|tree| tree.join(PARENT))
        .filter(|dir| dir.is_dir())
}

pub(crate) fn make(tree: &Path, group: &str) -> Result<PathBuf> {
    let dir = tree.join(PARENT).join(group);
    fs::create_dir_all(&dir).map_err(LabError::io("cannot make control group", &dir))?;
    Ok(dir)
}

/// Makes the group where cgroup v1 counts processor time: often, but not always, with the `cpu` controller.
fn make_accounting(root: &Path, group: &str) -> Result<Option<PathBuf>> {
    let tree = root.join("cpuacct");
    match tree.join("cgroup.procs").exists() {
        true => make(&tree, group).map(Some),
        false => Ok(None),
    }
}

pub(crate) fn make_v2(tree: &Path, group: &str, controller: &str) -> Result<PathBuf> {
    let dir = make(tree, group)?;
    // A controller works in a group when all groups above hand it down.
    write(tree, "cgroup.subtree_control", &format!("+{controller}"))?;
    write(
        &tree.join(PARENT),
        "cgroup.subtree_control",
        &format!("+{controller}"),
    )?;
    Ok(dir)
}

pub(crate) fn write(dir: &Path, file: &str, value: &str) -> Result<()> {
    let path = dir.join(file);
    let result: io::Result<()> = fs::write(&path, value);
    result.map_err(LabError::io("cannot write", &path))
}

/// Puts a kernel thread into a group. One that was just made refuses until it has run for the first
/// time.
fn move_kernel_thread(dir: &Path, thread: i32) -> Result<()> {
    let mut result = Ok(());
    wait_until(Duration::from_secs(2), || {
        result = write(dir, "cgroup.procs", &thread.to_string());
        let refused = |error: &LabError| match error {
            LabError::Io { source, .. } => source.kind() == io::ErrorKind::InvalidInput,
            _ => false,
        };
        !result.as_ref().is_err_and(refused)
    });
    result
}

/// The kernel threads that do the receive work of interfaces of this name, in any namespace.
fn napi_threads(interface: &str) -> BTreeSet<i32> {
    let prefix = format!("napi/{interface}-");
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with(&prefix))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_from_either_version() {
        let root = tempfile::tempdir().unwrap();
        for controller in ["cpu", "cpuacct"] {
            fs::create_dir(root.path().join(controller)).unwrap();
            fs::write(root.path().join(controller).join("cgroup.procs"), "").unwrap();
        }
        let group = NodeGroup::create_counting(root.path(), "t-n1").unwrap();
        assert_eq!(group.cpu_time(), None);
        let dir = root.path().join("cpuacct/dts-lab/t-n1");
        fs::write(dir.join("cpuacct.usage"), "1500000000\n").unwrap();
        assert_eq!(group.cpu_time(), Some(Duration::from_millis(1500)));

        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu\n").unwrap();
        let group = NodeGroup::create_counting(root.path(), "t-n1").unwrap();
        let stat = root.path().join("dts-lab/t-n1/cpu.stat");
        fs::write(stat, "usage_usec 2000\nuser_usec 1500\n").unwrap();
        assert_eq!(group.cpu_time(), Some(Duration::from_millis(2)));
    }

    const LIMITS: fn() -> NodeSpec = || NodeSpec {
        cpu_quota: Some(0.25),
        memory_limit: Some(64 << 20),
        ..NodeSpec::default()
    };

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn v2_uses_one_directory() {
        let root = tempfile::tempdir().unwrap();
        fs::write(
            root.path().join("cgroup.controllers"),
            "cpuset cpu io memory\n",
        )
        .unwrap();
        let group = NodeGroup::create(root.path(), "t-n1", &LIMITS())
            .unwrap()
            .unwrap();
        let dir = root.path().join("dts-lab/t-n1");
        assert_eq!(group.dirs, BTreeSet::from([dir.clone()]));
        set_quota(root.path(), "t-n1", Some(0.25)).unwrap();
        assert_eq!(read(dir.join("cpu.max")), "2500 10000");
        assert_eq!(read(dir.join("memory.max")), "67108864");
        assert_eq!(
            read(root.path().join("dts-lab/cgroup.subtree_control")),
            "+memory"
        );
        set_quota(root.path(), "t-n1", None).unwrap();
        assert_eq!(read(dir.join("cpu.max")), "max 100000");
    }

    #[test]
    fn v1_uses_one_directory_per_controller() {
        let root = tempfile::tempdir().unwrap();
        for controller in ["cpu", "memory"] {
            fs::create_dir(root.path().join(controller)).unwrap();
            fs::write(root.path().join(controller).join("cgroup.procs"), "").unwrap();
        }
        let group = NodeGroup::create(root.path(), "t-n1", &LIMITS())
            .unwrap()
            .unwrap();
        assert_eq!(group.dirs.len(), 2);
        set_quota(root.path(), "t-n1", Some(0.25)).unwrap();
        assert_eq!(
            read(root.path().join("cpu/dts-lab/t-n1/cpu.cfs_quota_us")),
            "2500"
        );
        assert_eq!(
            read(
                root.path()
                    .join("memory/dts-lab/t-n1/memory.limit_in_bytes")
            ),
            "67108864"
        );
    }

    #[test]
    fn a_missing_controller_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = NodeGroup::create(root.path(), "t-n1", &LIMITS()).unwrap_err();
        assert!(
            error.to_string().contains("no cgroup cpu controller"),
            "{error}"
        );
        assert!(
            NodeGroup::create(root.path(), "t-n1", &NodeSpec::default())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn small_quotas_keep_the_kernels_minimum() {
        for cores in [0.01, 0.05, 0.1, 0.5, 4.0] {
            let period = cpu_period(cores);
            let quota = period.as_secs_f64() * f64::from(cores);
            assert!(quota >= 0.000_999, "{cores}: {quota}");
            assert!((0.01..=0.1).contains(&period.as_secs_f64()));
        }
    }
}
