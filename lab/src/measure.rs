//! What the kernel says about a place: interface counters, sockets.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{LabError, Result, command_line};
use crate::lab::Lab;
use crate::place::Place;

/// An interface's counters since it was made (`/proc/net/dev`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Frames received; a large one that was not cut up counts once.
    pub rx_frames: u64,
    /// Received frames that were dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Frames to be sent that were dropped.
    pub tx_dropped: u64,
}

impl Lab {
    /// The counters of a place's interface.
    pub fn counters(&self, place: Place, interface: &str) -> Result<Counters> {
        // /proc/net is that of the process's main thread, which is elsewhere.
        let path = Path::new("/proc/thread-self/net/dev");
        let table = self.within(place, || fs::read_to_string(path))?;
        let table = table.map_err(LabError::io("cannot read", path))?;
        Counters::of(&table, interface).ok_or_else(|| LabError::Malformed {
            path: path.to_path_buf(),
            message: format!("{place} has no interface {interface}"),
        })
    }

    /// The processes of a node that has a CPU quota or a memory limit, and with a CPU quota the kernel threads of its receive
    /// path; none for other places.
    pub fn node_processes(&self, place: Place) -> Result<Vec<u32>> {
        self.spec().check_place(place)?;
        let group = self.group(place);
        Ok(group.map_or_else(Vec::new, |group| group.processes().into_iter().collect()))
    }

    /// What `ss` prints in a place, such as the TCP sockets with their state: `&["-tin"]`.
    pub fn ss(&self, place: Place, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("ss");
        command.args(arguments);
        let output = self.exec(place, &command)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(LabError::Command {
                command: command_line(&command),
                status: output.status,
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            }),
        }
    }
}

impl Counters {
    /// Finds an interface's line: its name, eight receive columns, eight transmit columns.
    fn of(table: &str, interface: &str) -> Option<Self> {
        let columns = table.lines().find_map(|line| {
            let (name, columns) = line.split_once(':')?;
            (name.trim() == interface).then_some(columns)
        })?;
        let numbers: Vec<u64> = columns
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let column = |index: usize| numbers.get(index).copied();
        Some(Self {
            rx_bytes: column(0)?,
            rx_frames: column(1)?,
            rx_dropped: column(3)?,
            tx_bytes: column(8)?,
            tx_frames: column(9)?,
            tx_dropped: column(11)?,
        })
    }
}

impl std::ops::Sub for Counters {
    type Output = Self;

    /// What was counted between an earlier reading and this one.
    fn sub(self, earlier: Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes.saturating_sub(earlier.rx_bytes),
            rx_frames: self.rx_frames.saturating_sub(earlier.rx_frames),
            rx_dropped: self.rx_dropped.saturating_sub(earlier.rx_dropped),
            tx_bytes: self.tx_bytes.saturating_sub(earlier.tx_bytes),
            tx_frames: self.tx_frames.saturating_sub(earlier.tx_frames),
            tx_dropped: self.tx_dropped.saturating_sub(earlier.tx_dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_columns_of_the_right_interface() {
        let table = "Inter-|   Receive            |  Transmit\n \
                     face |bytes packets errs drop fifo frame compressed multicast|bytes ...\n    \
                     lo:  1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  \
                     eth0: 10 20 30 40 50 60 70 80 90 100 110 120 130 140 150 160\n";
        let counters = Counters::of(table, "eth0").unwrap();
        assert_eq!(
            (counters.rx_bytes, counters.rx_frames, counters.rx_dropped),
            (10, 20, 40)
        );
        assert_eq!(
            (counters.tx_bytes, counters.tx_frames, counters.tx_dropped),
            (90, 100, 120)
        );
        assert_eq!(counters - counters, Counters::default());
        assert_eq!(Counters::of(table, "eth1"), None);
    }
}
