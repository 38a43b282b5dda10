//! Network namespaces: making, entering and removing them.
//!
//! A namespace is entered by `setns` on a thread of its own, never by `ip netns exec`: that one
//! gives the program a mount namespace with a fresh `/sys`, in which the BPF file system and the
//! cgroups are missing.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{LabError, Result, command_line};
use crate::lock::Lock;
use crate::place::Place;

/// Where `ip netns` keeps namespaces.
const DIR: &str = "/run/netns";

/// The name of a place's namespace.
pub(crate) fn name(lab: &str, place: Place) -> String {
    format!("dts-{lab}-{place}")
}

/// The file that stands for a namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Makes an empty namespace; its loopback is still down.
///
/// A program that is killed meanwhile leaves `ip` at its work. That has the machine's lock as its standard
/// input, and so holds it: whoever removes the lab waits until the namespace is there.
pub(crate) fn add(name: &str) -> Result<()> {
    let lock = Lock::acquire()?;
    let mut command = Command::new("ip");
    command.args(["netns", "add", name]).stdin(lock.share()?);
    output_of(&mut command).map(drop)
}

/// Removes a namespace; it goes away with the last process in it.
pub(crate) fn delete(name: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "del", name])).map(drop)
}

/// The namespaces of a lab that are there, whatever a state file says.
pub(crate) fn of_lab(lab: &str) -> Vec<String> {
    let prefix = format!("dts-{lab}-");
    let entries = fs::read_dir(DIR).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// The labs of which there is a namespace.
pub(crate) fn lab_names() -> Vec<String> {
    let entries = fs::read_dir(DIR).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_prefix("dts-")?.split_once('-')?.0.to_owned()))
        .collect()
}

/// Runs `work` on a thread that is in the namespace.
pub(crate) fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = path(name);
    let namespace = File::open(&path).map_err(LabError::io("cannot open namespace", &path))?;
    let worker = || {
        enter(&namespace).map_err(LabError::io("cannot enter namespace", &path))?;
        Ok(work())
    };
    thread::scope(|scope| match scope.spawn(worker).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Moves the calling thread into the namespace for good.
pub(crate) fn enter_for_good(name: &str) -> Result<()> {
    let path = path(name);
    let namespace = File::open(&path).map_err(LabError::io("cannot open namespace", &path))?;
    enter(&namespace).map_err(LabError::io("cannot enter namespace", &path))
}

/// Starts a program in the namespace.
pub(crate) fn spawn(name: &str, command: &mut Command) -> Result<Child> {
    within(name, || command.spawn())?.map_err(LabError::spawn(command))
}

/// Runs a program in the namespace to its end; its output, or an error if it failed.
pub(crate) fn run_in(name: &str, command: &mut Command) -> Result<Vec<u8>> {
    within(name, || run(command))?
}

/// The processes in the namespace.
pub(crate) fn processes(name: &str) -> Vec<i32> {
    let Ok(namespace) = fs::metadata(path(name)) else {
        return Vec::new();
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            // Kernel threads and processes that just ended have no readable link: not ours.
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|of| (of.dev(), of.ino()) == (namespace.dev(), namespace.ino()))
        })
        .collect()
}

/// Applies a batch of `ip` commands (one a line, without the word `ip`) in the namespace.
pub(crate) fn ip_batch(name: &str, script: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-n", name, "-batch", "-"]);
    run_with_input(&mut command, script)
}

/// Writes a setting of the namespace, named as `sysctl` does.
pub(crate) fn set_sysctl(name: &str, key: &str, value: &str) -> Result<()> {
    // sysctl's rule: dots separate, slashes stand for dots inside a part (an interface name).
    let file: String = key
        .chars()
        .map(|character| match character {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    let path = Path::new("/proc/sys").join(file);
    within(name, || fs::write(&path, value))?.map_err(LabError::io("cannot write setting", &path))
}

/// Runs a program to its end; its output, or an error if it failed.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    output_of(command.stdin(Stdio::null()))
}

fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().map_err(LabError::spawn(command))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(failed(command, output.status, &output.stderr)),
    }
}

/// Runs a program that reads `input`.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Result<()> {
    use std::io::Write;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(LabError::spawn(command))?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(LabError::spawn(command))?;
    if !output.status.success() {
        return Err(failed(command, output.status, &output.stderr));
    }
    written.map_err(LabError::spawn(command))
}

fn failed(command: &Command, status: std::process::ExitStatus, stderr: &[u8]) -> LabError {
    LabError::Command {
        command: command_line(command),
        status,
        stderr: String::from_utf8_lossy(stderr).into_owned(),
    }
}

fn enter(namespace: impl AsFd) -> std::io::Result<()> {
    Ok(move_into_link_name_space(
        namespace.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}
