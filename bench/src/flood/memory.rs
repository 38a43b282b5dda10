//! What a flood takes of memory: kernel objects, sockets that wait for a handshake's end, daemons and their maps.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dts_lab::{Lab, Place};

const EVERY: Duration = Duration::from_millis(250);

/// Memory at a time, or the most of some times.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Kernel objects of the whole machine, in KiB.
    pub(super) slab: u64,
    /// Buffers of all TCP sockets of the machine, in pages.
    pub(super) tcp_pages: u64,
    /// Connections of the nodes that wait for the handshake's last segment.
    pub(super) half_open: u64,
    /// The daemons' resident memory, in KiB.
    pub(super) daemons: u64,
}

impl Memory {
    pub(super) fn now(lab: &Lab) -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let nodes = lab.spec().node_count();
        let daemons = (1..=nodes).filter_map(|node| lab.daemon(node));
        let resident = daemons.filter_map(|daemon| {
            let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).ok()?;
            number_after(&status, "VmRSS:")
        });
        Self {
            slab: number_after(&meminfo, "Slab:").unwrap_or(0),
            tcp_pages: sockstat
                .lines()
                .find(|line| line.starts_with("TCP:"))
                .and_then(|line| number_after(line, "mem"))
                .unwrap_or(0),
            half_open: lab
                .spec()
                .node_places()
                .map(|node| half_open(lab, node))
                .sum(),
            daemons: resident.sum(),
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            slab: self.slab.max(other.slab),
            tcp_pages: self.tcp_pages.max(other.tcp_pages),
            half_open: self.half_open.max(other.half_open),
            daemons: self.daemons.max(other.daemons),
        }
    }

    /// Looks again and again, until told to stop: the most of each.
    pub(super) fn watch(lab: &Lab, stop: &AtomicBool) -> Self {
        let mut most = Self::now(lab);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(EVERY);
            most = most.most(Self::now(lab));
        }
        most
    }
}

/// How many connections of a node are in SYN-RECEIVED.
fn half_open(lab: &Lab, node: Place) -> u64 {
    let table = lab.within(node, || fs::read_to_string("/proc/thread-self/net/tcp"));
    let Ok(Ok(table)) = table else { return 0 };
    count_syn_received(&table)
}

/// State 03 in the fourth column of `/proc/net/tcp`.
fn count_syn_received(table: &str) -> u64 {
    let states = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    states.filter(|state| *state == "03").count() as u64
}

/// What the daemons' maps take of the kernel's memory, in KiB: the same before and after, for they are made for a number of
/// entries.
pub(super) fn maps(lab: &Lab) -> u64 {
    let daemons = (1..=lab.spec().node_count()).filter_map(|node| lab.daemon(node));
    let sizes = daemons.map(|daemon| {
        let mut maps = BTreeMap::new();
        let files = fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid()));
        for file in files.into_iter().flatten().flatten() {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let number = |name| number_after(&text, name);
            if let (Some(id), Some(bytes)) = (number("map_id:"), number("memlock:")) {
                maps.insert(id, bytes);
            }
        }
        maps.values().sum::<u64>() / 1024
    });
    sizes.sum()
}

/// The number that follows a word.
fn number_after(text: &str, word: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    words.find(|w| *w == word)?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found() {
        let text = "TCP: inuse 3 orphan 0 tw 1 alloc 5 mem 12";
        assert_eq!(number_after(text, "mem"), Some(12));
        assert_eq!(number_after("Slab:   12345 kB", "Slab:"), Some(12_345));
        assert_eq!(number_after(text, "x"), None);
    }

    #[test]
    fn half_open_connections_are_counted() {
        let table = "  sl  local_address rem_address   st tx_queue\n   0: 0:50 0:0 0A 0:0\n   1: 0:50 1:1 03 0:0\n";
        assert_eq!(count_syn_received(table), 1);
    }
}
