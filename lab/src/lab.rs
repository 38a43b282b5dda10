//! A lab: made, opened again by another process, used, removed.

use std::convert::Infallible;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::cgroup::{self, NodeGroup};
use crate::disk;
use crate::error::{LabError, Result, command_line, log_tail};
use crate::guard;
use crate::lock::{self, Lock, lab_dir};
use crate::netns;
use crate::place::{Network, Place};
use crate::process::{self, LabProcess, ProcessId, wait_until};
use crate::spec::{LabSpec, ServerKind, validate_name};
use crate::{daemon, topology};

/// The specification, in the lab's directory.
const STATE: &str = "lab.json";
/// Records of processes, in the lab's directory.
const PROCESSES: &str = "processes";

/// A lab that is up. Its state is on disk and in the kernel: dropping this value changes nothing,
/// and another process can [`Lab::open`] it. Tests want a [`crate::LabGuard`].
#[derive(Debug)]
pub struct Lab {
    spec: LabSpec,
    dir: PathBuf,
}

/// A lab as [`list`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabSummary {
    /// Its name.
    pub name: String,
    /// Its nodes; `None` when its state is unreadable: only `down` is of use then.
    pub nodes: Option<u8>,
    /// Processes that run in it.
    pub processes: usize,
}

impl Lab {
    /// Makes the lab: namespaces and wires, servers, daemons (unless the specification says
    /// otherwise), each of them ready when this returns. A lab that fails half-way is removed
    /// again.
    pub fn up(spec: LabSpec) -> Result<Self> {
        spec.validate()?;
        if !rustix::process::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        let _busy = guard::busy();
        let name = spec.name.clone();
        let lab = Self {
            dir: lab_dir(&name),
            spec,
        };
        lab.claim()?;
        match lab.build() {
            Ok(()) => Ok(lab),
            Err(error) => {
                // The first error is the one to report; `down` can be run again.
                let _ = down(&name);
                Err(error)
            }
        }
    }

    /// A lab that another process made.
    pub fn open(name: &str) -> Result<Self> {
        validate_name(name)?;
        let dir = lab_dir(name);
        let path = dir.join(STATE);
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LabError::NotFound {
                    name: name.to_owned(),
                    path,
                });
            }
            Err(error) => return Err(LabError::io("cannot read", &path)(error)),
        };
        match serde_json::from_slice(&json) {
            Ok(spec) => Ok(Self { spec, dir }),
            Err(error) => Err(LabError::Malformed {
                path,
                message: error.to_string(),
            }),
        }
    }

    /// Removes the lab. See [`down`].
    pub fn down(&self) -> Result<()> {
        down(&self.spec.name)
    }

    /// Ends all daemons, and starts them again with other services. What they left in the kernel goes in
    /// between, so connections don't outlive this. (`services_toml` of [`Lab::spec`] is that of [`Lab::up`].)
    pub fn restart_daemons(&self, services_toml: &str) -> Result<()> {
        let mut spec = self.spec.clone();
        spec.cluster.services_toml = Some(services_toml.to_owned());
        let dir = self.dir.clone();
        let changed = Self { spec, dir };
        for node in 1..=self.spec.node_count() {
            self.stop_daemon(node, rustix::process::Signal::TERM)?;
        }
        self.detach_daemons();
        changed.write_state()?;
        for place in self.spec.node_places() {
            changed.write_daemon_config(place)?;
        }
        changed.start_all_daemons()
    }

    /// What the lab consists of.
    pub fn spec(&self) -> &LabSpec {
        &self.spec
    }

    /// The lab's directory; gone with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A place's directory, with its configuration files and logs.
    pub fn place_dir(&self, place: Place) -> PathBuf {
        self.dir.join(place.to_string())
    }

    /// Runs a program in a place to its end, and takes its output, whether it succeeds or not.
    /// Program, arguments, environment and directory of `command` count; its standard streams are
    /// set here.
    pub fn exec(&self, place: Place, command: &Command) -> Result<Output> {
        let mut command = self.command(place, command)?;
        command.stdin(Stdio::null());
        netns::within(&self.namespace(place)?, || command.output())?
            .map_err(LabError::spawn(&command))
    }

    /// Runs a shell script in a place; its standard output, or an error when it fails.
    pub fn sh(&self, place: Place, script: &str) -> Result<String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let output = self.exec(place, &command)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(LabError::Command {
            command: command_line(&command),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Becomes a program in a place: terminal, signals and exit status are that program's. Returns
    /// only on failure.
    pub fn become_program(&self, place: Place, command: &Command) -> Result<Infallible> {
        let mut command = self.command(place, command)?;
        netns::enter_for_good(&self.namespace(place)?)?;
        let error = command.exec();
        Err(LabError::spawn(&command)(error))
    }

    /// Starts a program in a place. Program, arguments, environment and directory of `command`
    /// count; it reads nothing and writes to a log in the place's directory. [`Lab::down`] ends it.
    pub fn spawn(&self, place: Place, command: &Command) -> Result<LabProcess> {
        let program = Path::new(command.get_program())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let tag = (1..)
            .map(|number| format!("{program}-{number}"))
            .find(|tag| !self.log_path(place, tag).exists())
            .expect("numbers don't run out");
        self.spawn_tagged(place, &tag, command)
    }

    /// Runs `work` on a thread in a place's namespace: sockets it makes are that place's.
    pub fn within<T: Send>(&self, place: Place, work: impl FnOnce() -> T + Send) -> Result<T> {
        netns::within(&self.namespace(place)?, work)
    }

    /// Takes a place's interface down or up, as `ip link set` in that place does. (To pull the
    /// cable instead, use [`crate::Effect::Partition`].)
    pub fn set_link(&self, place: Place, network: Network, up: bool) -> Result<()> {
        let namespace = self.namespace(place)?;
        if place.address(network).is_none() {
            return Err(LabError::InvalidSpec(format!(
                "{place} is not on the {network} network"
            )));
        }
        let interface = network.interface();
        if !up {
            return netns::ip_batch(&namespace, &format!("link set dev {interface} down\n"));
        }
        let bring_up = || {
            netns::ip_batch(&namespace, &format!("link set dev {interface} up\n"))?;
            // The kernel took them with the interface.
            netns::ip_batch(&namespace, &topology::routes(&self.spec, place, network))
        };
        // Without CPU quota there is no receive thread to be put into its group again.
        match self
            .group(place)
            .filter(|_| self.cpu_quota(place).is_some())
        {
            Some(group) => {
                let _lock = Lock::acquire()?;
                group.adopt_receive_path(interface, bring_up)
            }
            None => bring_up(),
        }
    }

    /// Starts a program under a name of its own, in the place's namespace and control group.
    pub(crate) fn spawn_tagged(
        &self,
        place: Place,
        tag: &str,
        command: &Command,
    ) -> Result<LabProcess> {
        let log_path = self.log_path(place, tag);
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.map_err(LabError::io("cannot open log", &log_path))?;
        let same_log = log
            .try_clone()
            .map_err(LabError::io("cannot open log", &log_path))?;
        let mut command = self.command(place, command)?;
        command.stdin(Stdio::null()).stdout(log).stderr(same_log);
        // Its own process group: Ctrl-C at the terminal is not for it, and its children can be
        // found.
        command.process_group(0);
        let child = netns::spawn(&self.namespace(place)?, &mut command)?;
        LabProcess::record(child.id(), self.record_path(place, tag), log_path)
    }

    /// A process that was started under a name of its own.
    pub(crate) fn process(&self, place: Place, tag: &str) -> Option<LabProcess> {
        LabProcess::load(self.record_path(place, tag), self.log_path(place, tag))
    }

    /// Waits until a process that was just started is ready.
    pub(crate) fn wait_ready(
        &self,
        what: &str,
        process: &LabProcess,
        timeout: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let mut is_ready = false;
        wait_until(timeout, || {
            is_ready = ready();
            is_ready || !process.is_alive() || guard::check_interrupted().is_err()
        });
        guard::check_interrupted()?;
        if is_ready {
            return Ok(());
        }
        let (process_name, log_path) = (what.to_owned(), process.log_path().to_path_buf());
        let log = log_tail(&log_path);
        if process.is_alive() {
            process.stop();
            Err(LabError::NotReady {
                process: process_name,
                after: timeout,
                log_path,
                log,
            })
        } else {
            process.forget();
            Err(LabError::Died {
                process: process_name,
                log_path,
                log,
            })
        }
    }

    /// The name of a place's namespace.
    pub(crate) fn namespace(&self, place: Place) -> Result<String> {
        Ok(netns::name(&self.spec.name, self.spec.check_place(place)?))
    }

    /// Takes the name, so that whatever follows can be found and removed.
    fn claim(&self) -> Result<()> {
        let _lock = Lock::acquire()?;
        let name = &self.spec.name;
        let has_disk = disk::lab_names().contains(name);
        if self.dir.exists() || has_disk || !netns::of_lab(name).is_empty() {
            return Err(LabError::Exists { name: name.clone() });
        }
        let make =
            |dir: &Path| fs::create_dir(dir).map_err(LabError::io("cannot make directory", dir));
        make(&self.dir)?;
        make(&self.dir.join(PROCESSES))?;
        for place in self.spec.places() {
            make(&self.place_dir(place))?;
        }
        self.write_state()?;
        write_secret(&self.secret_path())
    }

    fn write_state(&self) -> Result<()> {
        let path = self.dir.join(STATE);
        let json = serde_json::to_vec_pretty(&self.spec).expect("a specification is JSON");
        fs::write(&path, json).map_err(LabError::io("cannot write", &path))
    }

    fn build(&self) -> Result<()> {
        topology::create(&self.spec)?;
        for place in self.spec.node_places() {
            self.limit(place)?;
            self.make_disk(place)?;
        }
        if !self.spec.impairments.is_empty() {
            self.set_impairments(&self.spec.impairments)?;
        }
        for place in self.spec.node_places() {
            if self.spec.server == ServerKind::Nginx {
                self.start_nginx(place)?;
            }
            self.write_daemon_config(place)?;
        }
        if self.spec.cluster.daemons {
            self.start_all_daemons()?;
        }
        guard::check_interrupted()
    }

    /// Makes a node's control group and puts its receive path into it.
    fn limit(&self, place: Place) -> Result<()> {
        let Place::Node(i) = place else { return Ok(()) };
        let spec = &self.spec.nodes[usize::from(i) - 1];
        let Some(group) =
            NodeGroup::create(Path::new(cgroup::ROOT), &self.group_name(place), spec)?
        else {
            return Ok(());
        };
        if spec.cpu_quota.is_none() {
            return Ok(());
        }
        self.thread_receive_path(place, &group)?;
        self.set_quota(place, true)
    }

    /// Puts a node's CPU quota into force, or lifts it. Starting is not what a quota is to limit: the kernel's check of
    /// the filter alone takes seconds.
    pub(crate) fn set_quota(&self, place: Place, in_force: bool) -> Result<()> {
        let Some(cores) = self.cpu_quota(place) else {
            return Ok(());
        };
        let cores = in_force.then_some(cores);
        cgroup::set_quota(Path::new(cgroup::ROOT), &self.group_name(place), cores)
    }

    fn cpu_quota(&self, place: Place) -> Option<f32> {
        match place {
            Place::Node(i) => self.spec.nodes[usize::from(i) - 1].cpu_quota,
            Place::Hub | Place::Client(_) => None,
        }
    }

    pub(crate) fn group_name(&self, place: Place) -> String {
        format!("{}-{place}", self.spec.name)
    }

    pub(crate) fn group(&self, place: Place) -> Option<NodeGroup> {
        NodeGroup::open(Path::new(cgroup::ROOT), &self.group_name(place))
    }

    /// The same program, arguments, environment and directory; in the place's control group if it
    /// has one.
    fn command(&self, place: Place, command: &Command) -> Result<Command> {
        self.spec.check_place(place)?;
        if let Some(group) = self.group(place) {
            return Ok(group.wrap(command));
        }
        let mut copy = Command::new(command.get_program());
        process::copy_settings(command, copy.args(command.get_args()));
        Ok(copy)
    }

    fn record_path(&self, place: Place, tag: &str) -> PathBuf {
        self.dir.join(PROCESSES).join(format!("{place}.{tag}.json"))
    }

    pub(crate) fn log_path(&self, place: Place, tag: &str) -> PathBuf {
        self.place_dir(place).join(format!("{tag}.log"))
    }

    pub(crate) fn secret_path(&self) -> PathBuf {
        self.dir.join("secret")
    }
}

/// Removes a lab, or what is left of one: processes, filters, namespaces, control groups, files.
/// Does nothing when nothing is there. Works without the lab's state, so a lab whose maker was
/// killed half-way is removed as well.
///
/// # Errors
/// When something could not be removed, after everything else was.
pub fn down(name: &str) -> Result<()> {
    validate_name(name)?;
    let dir = lab_dir(name);
    let mut left = Vec::new();

    process::end(&process::recorded(&dir.join(PROCESSES)));
    // What these started, and what was running in a terminal.
    let inside: Vec<ProcessId> = netns::of_lab(name)
        .iter()
        .flat_map(|ns| netns::processes(ns))
        .filter_map(ProcessId::of)
        .collect();
    process::end(&inside);
    if let Ok(lab) = Lab::open(name) {
        lab.detach_daemons();
    }

    let _lock = Lock::acquire()?;
    left.extend(topology::remove(name).err());
    left.extend(daemon::remove_pins(name).err());
    left.extend(cgroup::remove(Path::new(cgroup::ROOT), name).err());
    left.extend(disk::remove(name).err());
    // Last: as long as it is there, the lab is listed and can be removed again.
    if left.is_empty()
        && let Err(error) = fs::remove_dir_all(&dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        left.push(format!("{}: {error}", dir.display()));
    }
    match left.is_empty() {
        true => Ok(()),
        false => Err(LabError::Leftover {
            name: name.to_owned(),
            left: left.join("; "),
        }),
    }
}

/// The labs on this machine, also those that are only half there.
pub fn list() -> Vec<LabSummary> {
    let dirs = fs::read_dir(lock::ROOT).into_iter().flatten().flatten();
    let mut names: Vec<String> = dirs
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.extend(netns::lab_names());
    names.extend(disk::lab_names());
    names.retain(|name| validate_name(name).is_ok());
    names.sort();
    names.dedup();
    let summary = |name: String| LabSummary {
        nodes: Lab::open(&name).ok().map(|lab| lab.spec.node_count()),
        processes: netns::of_lab(&name)
            .iter()
            .map(|ns| netns::processes(ns).len())
            .sum(),
        name,
    };
    names.into_iter().map(summary).collect()
}

/// 32 random bytes in hexadecimal, for root's eyes only.
fn write_secret(path: &Path) -> Result<()> {
    let mut secret = [0; 32];
    let random = "/dev/urandom";
    File::open(random)
        .and_then(|mut file| file.read_exact(&mut secret))
        .map_err(LabError::io("cannot read", random))?;
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let write = || {
        fs::write(path, "")?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        fs::write(path, hex + "\n")
    };
    write().map_err(LabError::io("cannot write", path))
}
