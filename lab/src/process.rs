//! The lab's processes: recorded on disk, and ended by pid only while the pid is still theirs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::error::{LabError, Result};

/// How long a process may take to end after SIGTERM.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(10);

/// A process, told apart from a later one with the same pid by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pid: i32,
    /// Clock ticks from boot to the process's start (`proc(5)`, `stat` field 22).
    start_time: u64,
}

/// A process that runs in a place of the lab. It goes on when this value is dropped;
/// [`crate::Lab::down`] ends it.
#[derive(Clone, Debug)]
pub struct LabProcess {
    id: ProcessId,
    record: PathBuf,
    log: PathBuf,
}

impl ProcessId {
    /// The process that has this pid now, if there is one that has not ended.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let (state, start_time) = stat(pid)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, start_time })
    }

    /// Whether the process has not ended.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if the process is still there.
    fn signal(self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        // The descriptor pins the process: checked after opening, a reused pid can't be hit.
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            && self.is_alive()
        {
            // It may end meanwhile: as good as signalled.
            let _ = rustix::process::pidfd_send_signal(&pidfd, signal);
        }
    }

    /// Sends a signal to the process and the children in its process group.
    fn signal_group(self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid)
            && self.is_alive()
            && rustix::process::getpgid(Some(pid)) == Ok(pid)
        {
            let _ = rustix::process::kill_process_group(pid, signal);
        } else {
            self.signal(signal);
        }
    }

    /// Takes the exit status of a child of ours, so that no zombie stays.
    fn reap(self) {
        if let Some(pid) = Pid::from_raw(self.pid)
            && stat(self.pid)
                .is_some_and(|(state, started)| state == 'Z' && started == self.start_time)
        {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

impl LabProcess {
    /// Records a process that was just started as a process group of its own.
    pub(crate) fn record(pid: u32, record: PathBuf, log: PathBuf) -> Result<Self> {
        let pid = pid as i32;
        // One that has ended at once is recorded with a start time that no process has.
        let start_time = stat(pid).map_or(u64::MAX, |(_, start_time)| start_time);
        let process = Self {
            id: ProcessId { pid, start_time },
            record,
            log,
        };
        let json = serde_json::to_vec(&process.id).expect("two numbers are JSON");
        fs::write(&process.record, json).map_err(LabError::io("cannot write", &process.record))?;
        Ok(process)
    }

    /// Reads a record; `None` when there is none.
    pub(crate) fn load(record: PathBuf, log: PathBuf) -> Option<Self> {
        let id = serde_json::from_slice(&fs::read(&record).ok()?).ok()?;
        Some(Self { id, record, log })
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.id.pid as u32
    }

    /// The file with what it wrote to its standard output and error.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Whether it is still running.
    pub fn is_alive(&self) -> bool {
        self.id.is_alive()
    }

    /// Sends it a signal; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        self.id.signal(signal);
    }

    /// Waits until it has ended; `false` after `timeout`.
    pub fn wait(&self, timeout: Duration) -> bool {
        let ended = wait_until(timeout, || !self.is_alive());
        self.id.reap();
        ended
    }

    /// Ends it and its process group: SIGTERM, and SIGKILL for what is left after two seconds.
    pub fn stop(&self) {
        end(&[self.id]);
        self.forget();
    }

    /// Removes the record of a process that has ended.
    pub(crate) fn forget(&self) {
        self.id.reap();
        let _ = fs::remove_file(&self.record);
    }
}

/// Ends processes and their process groups: SIGTERM, and SIGKILL for what is left after [`GRACE`].
pub(crate) fn end(ids: &[ProcessId]) {
    ids.iter().for_each(|id| id.signal_group(Signal::TERM));
    let all_ended = || ids.iter().all(|id| !id.is_alive());
    if !wait_until(GRACE, all_ended) {
        ids.iter().for_each(|id| id.signal_group(Signal::KILL));
        wait_until(GRACE, all_ended);
    }
    ids.iter().for_each(|id| id.reap());
}

/// The processes recorded in a directory.
pub(crate) fn recorded(dir: &Path) -> Vec<ProcessId> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| serde_json::from_reader(File::open(entry.path()).ok()?).ok())
        .collect()
}

/// Waits until `condition` holds; `false` when it does not within `timeout`.
pub(crate) fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Gives `to` the environment and directory of `from`.
pub(crate) fn copy_settings(from: &Command, to: &mut Command) {
    for (key, value) in from.get_envs() {
        match value {
            Some(value) => to.env(key, value),
            None => to.env_remove(key),
        };
    }
    if let Some(dir) = from.get_current_dir() {
        to.current_dir(dir);
    }
}

/// A process's state letter and start time (`proc(5)`).
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, parentheses too.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    // Fields are counted from 1; the state is field 3, the start time field 22.
    let start_time = fields.nth(22 - 4)?.parse().ok()?;
    Some((state, start_time))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    #[expect(clippy::zombie_processes, reason = "`stop` takes its exit status")]
    fn sleeper(dir: &Path) -> LabProcess {
        let child = Command::new("sleep")
            .arg("60")
            .process_group(0)
            .spawn()
            .unwrap();
        LabProcess::record(child.id(), dir.join("p"), dir.join("log")).unwrap()
    }

    #[test]
    fn a_recorded_process_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let process = sleeper(dir.path());
        assert!(process.is_alive());
        assert_eq!(recorded(dir.path()), [process.id]);
        process.stop();
        assert!(!process.is_alive());
        assert!(recorded(dir.path()).is_empty());
    }

    #[test]
    fn a_reused_pid_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let process = sleeper(dir.path());
        let earlier = ProcessId {
            start_time: process.id.start_time - 1,
            ..process.id
        };
        end(&[earlier]);
        assert!(process.is_alive());
        process.stop();
    }
}
