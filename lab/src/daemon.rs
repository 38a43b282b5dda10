//! The lab's DTS daemons: configuration, start, stop.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{StatFs, statfs};
use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;

use crate::error::{LabError, Result, log_tail};
use crate::lab::Lab;
use crate::netns;
use crate::place::{Family, Network, Place};
use crate::process::LabProcess;
use crate::spec::{SELF_ADDRESS, SELF_ADDRESS_V6};

/// The BPF file system.
const BPF_FS: &str = "/sys/fs/bpf";
/// The directory of all labs' pins; each node has one in it.
const PINS: &str = "/sys/fs/bpf/dts-lab";
/// The file system type of [`BPF_FS`] (`statfs(2)`, `BPF_FS_MAGIC`).
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
/// The name under which the daemon runs in its place.
const TAG: &str = "dts";
/// Verifying the programs takes a while on a busy machine.
const START: Duration = Duration::from_secs(90);
/// What a daemon may need to give its lease back.
const STOP: Duration = Duration::from_secs(10);

impl Lab {
    /// A node's `dts.toml`.
    pub fn daemon_config(&self, node: u8) -> PathBuf {
        self.place_dir(Place::Node(node)).join("dts.toml")
    }

    /// The Unix socket at which a node's daemon answers.
    pub fn daemon_socket(&self, node: u8) -> PathBuf {
        let place = Place::Node(node);
        self.place_dir(place)
            .join(format!("{}-{place}.sock", self.spec().name))
    }

    /// What a node's daemon has written so far.
    pub fn daemon_log(&self, node: u8) -> PathBuf {
        self.place_dir(Place::Node(node)).join(format!("{TAG}.log"))
    }

    /// The process of a node's daemon, if it was started and not stopped.
    pub fn daemon(&self, node: u8) -> Option<LabProcess> {
        self.process(Place::Node(node), TAG)
            .filter(LabProcess::is_alive)
    }

    /// Starts a node's daemon and waits until it answers at its socket. Does nothing when it is
    /// running. Its CPU quota is lifted meanwhile.
    pub fn start_daemon(&self, node: u8) -> Result<()> {
        if let Some(process) = self.launch_daemon(node)? {
            self.wait_for_daemon(node, &process)?;
        }
        Ok(())
    }

    /// Sends a node's daemon a signal and waits until it has ended.
    pub fn stop_daemon(&self, node: u8, signal: Signal) -> Result<()> {
        let Some(process) = self.process(Place::Node(node), TAG) else {
            return Ok(());
        };
        process.signal(signal);
        if process.wait(STOP) {
            process.forget();
            return Ok(());
        }
        Err(LabError::System {
            what: format!(
                "the daemon of n{node} has not ended {STOP:?} after {signal:?}; \
                 its log ends with:\n{}",
                log_tail(process.log_path())
            ),
            source: std::io::ErrorKind::TimedOut.into(),
        })
    }

    /// Kills a node's daemon, as a crash would.
    pub fn kill_daemon(&self, node: u8) -> Result<()> {
        self.stop_daemon(node, Signal::KILL)
    }

    /// Starts all daemons at once, then waits for each.
    pub(crate) fn start_all_daemons(&self) -> Result<()> {
        let mut started = Vec::new();
        for node in 1..=self.spec().node_count() {
            started.extend(self.launch_daemon(node)?.map(|process| (node, process)));
        }
        started
            .iter()
            .try_for_each(|(node, process)| self.wait_for_daemon(*node, process))
    }

    /// Writes a node's `dts.toml`.
    pub(crate) fn write_daemon_config(&self, place: Place) -> Result<()> {
        let Place::Node(node) = place else {
            return Ok(());
        };
        let path = self.daemon_config(node);
        fs::write(&path, self.daemon_toml(node)).map_err(LabError::io("cannot write", &path))
    }

    /// Has `dts detach` remove what the daemons left in the kernel. Best effort: removing pins and
    /// namespaces does it, too.
    pub(crate) fn detach_daemons(&self) {
        for node in 1..=self.spec().node_count() {
            let namespace = netns::name(&self.spec().name, Place::Node(node));
            if !self.daemon_log(node).exists() || !netns::path(&namespace).exists() {
                continue;
            }
            let mut command = Command::new("timeout");
            command
                .arg("5")
                .arg(&self.spec().dts_exe)
                .args(["detach", "--config"])
                .arg(self.daemon_config(node));
            let _ = netns::run_in(&namespace, &mut command);
        }
    }

    /// Starts a node's daemon unless it is running; the node's CPU quota is lifted until [`Lab::wait_for_daemon`].
    fn launch_daemon(&self, node: u8) -> Result<Option<LabProcess>> {
        if self.daemon(node).is_some() {
            return Ok(None);
        }
        self.set_quota(Place::Node(node), false)?;
        mount_bpf_fs()?;
        let mut command = Command::new(&self.spec().dts_exe);
        command
            .args(["node", "--config"])
            .arg(self.daemon_config(node));
        if let Some(log) = &self.spec().cluster.log {
            command.args(["--log", log]);
        }
        self.spawn_tagged(Place::Node(node), TAG, &command)
            .map(Some)
    }

    fn wait_for_daemon(&self, node: u8, process: &LabProcess) -> Result<()> {
        let socket = self.daemon_socket(node);
        let what = format!("the daemon of n{node}");
        let ready = self.wait_ready(&what, process, START, || {
            UnixStream::connect(&socket).is_ok()
        });
        self.set_quota(Place::Node(node), true)?;
        ready
    }

    fn daemon_toml(&self, node: u8) -> String {
        let spec = self.spec();
        let own = &spec.nodes[usize::from(node) - 1];
        let place = Place::Node(node);
        let family = spec.cluster.back;
        let back = |place: Place| {
            place
                .address_of(family, Network::Back)
                .expect("every node is on the back network")
        };
        let self_address = match family {
            Family::V4 => IpAddr::V4(SELF_ADDRESS),
            Family::V6 => IpAddr::V6(SELF_ADDRESS_V6),
        };
        let inspect = |inspect: Option<bool>| inspect.map(|inspect| format!("inspect = {inspect}"));

        let mut toml = String::new();
        let _ = write!(
            toml,
            "[cluster]\nname = \"{}\"\nsecret_file = \"{}\"\n{}\n\
             [node]\nid = \"{place}\"\nfront = \"eth0\"\nback = \"eth1\"\naddress = \"{}\"\n\
             self_address = \"{self_address}\"\n\
             run_dir = \"{}\"\npin_dir = \"{}\"\n{}\n{}\n\
             [ring]\n{}\n\n[membership]\nsource = \"static\"\nmembers = [\n",
            spec.name,
            self.secret_path().display(),
            spec.cluster.cluster_toml.trim_end(),
            back(place),
            self.place_dir(place).display(),
            pin_dir(&spec.name, node).display(),
            inspect(own.inspect).unwrap_or_default(),
            own.node_toml.trim_end(),
            spec.cluster.ring_toml.trim_end(),
        );
        for (member, node) in spec.node_places().zip(&spec.nodes) {
            let inspect = inspect(node.inspect)
                .map(|inspect| format!(", {inspect}"))
                .unwrap_or_default();
            let _ = writeln!(
                toml,
                "  {{ id = \"{member}\", address = \"{}\"{inspect} }},",
                back(member)
            );
        }
        let services = spec.cluster.services_toml.clone();
        toml + "]\n\n" + &services.unwrap_or_else(|| spec.default_services())
    }
}

/// Where a node's programs and maps are pinned.
fn pin_dir(lab: &str, node: u8) -> PathBuf {
    Path::new(PINS).join(format!("{lab}-n{node}"))
}

/// Removes the pins of a lab's nodes; what could not be removed, in words.
pub(crate) fn remove_pins(lab: &str) -> Result<(), String> {
    let prefix = format!("{lab}-");
    let mut left = Vec::new();
    for entry in fs::read_dir(PINS).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            left.push(format!("{}: {error}", entry.path().display()));
        }
    }
    // Other labs' pins may be in it.
    let _ = fs::remove_dir(PINS);
    if left.is_empty() {
        Ok(())
    } else {
        Err(left.join("; "))
    }
}

/// Mounts the BPF file system where it belongs, as systemd does, if it is not there.
fn mount_bpf_fs() -> Result<()> {
    let mounted = |stat: StatFs| stat.f_type as u32 == BPF_FS_MAGIC;
    if statfs(BPF_FS).is_ok_and(mounted) {
        return Ok(());
    }
    mount("bpf", BPF_FS, "bpf", MountFlags::empty(), None)
        .map_err(|error| LabError::io("cannot mount the BPF file system at", BPF_FS)(error.into()))
}
