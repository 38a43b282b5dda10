//! How many threads wait for a node's disk: looked at often, and averaged.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::disk::DiskGroup;
use crate::error::Result;
use crate::lab::Lab;
use crate::place::Place;

/// What a [`WaitSampler`] saw at one node.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DiskWaits {
    /// The mean number of threads that were waiting for the disk.
    pub mean: f64,
    /// The most at once.
    pub most: u32,
    /// How often was looked.
    pub samples: u32,
}

/// Looks, on a thread of its own, at the threads of the programs on some nodes' disks, until it is stopped or
/// dropped.
#[derive(Debug)]
pub struct WaitSampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<DiskWaits>>>,
}

impl Lab {
    /// Begins to look at these nodes' threads, every so often.
    pub fn sample_disk_waits(&self, places: &[Place], every: Duration) -> Result<WaitSampler> {
        let groups: Vec<DiskGroup> = places
            .iter()
            .map(|place| self.disk_group(*place))
            .collect::<Result<_>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen: Vec<(u64, DiskWaits)> = vec![Default::default(); groups.len()];
            while !stopped.load(Ordering::Relaxed) {
                for (group, (sum, waits)) in groups.iter().zip(&mut seen) {
                    let waiting = group.processes().iter().map(|pid| waiting(*pid)).sum();
                    *sum += u64::from(waiting);
                    waits.most = waits.most.max(waiting);
                    waits.samples += 1;
                }
                thread::sleep(every);
            }
            let mean = |(sum, waits): (u64, DiskWaits)| DiskWaits {
                mean: sum as f64 / f64::from(waits.samples.max(1)),
                ..waits
            };
            seen.into_iter().map(mean).collect()
        });
        Ok(WaitSampler {
            stop,
            thread: Some(thread),
        })
    }
}

impl WaitSampler {
    /// Ends it: what it saw at each of the nodes.
    pub fn stop(mut self) -> Vec<DiskWaits> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        thread.and_then(|t| t.join().ok()).unwrap_or_default()
    }
}

impl Drop for WaitSampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How many of a process's threads are in state D: they wait for a disk and nothing else can wake them.
fn waiting(pid: u32) -> u32 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let stats = threads.into_iter().flatten().flatten();
    let waits = stats.filter(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        is_waiting(&stat)
    });
    waits.count() as u32
}

/// Whether a `stat` line (`proc(5)`) is that of a thread in state D.
fn is_waiting(stat: &str) -> bool {
    // The name in parentheses may contain anything, parentheses too.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|rest| rest.starts_with('D'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_state_counts() {
        assert!(is_waiting("12 (nginx) D 1 1 1 0"));
        assert!(!is_waiting("12 (nginx) S 1 1 1 0"));
        assert!(!is_waiting("12 (a) D b) S 1 1 1 0"));
        assert!(!is_waiting(""));
    }
}
