//! A client for many connections at once that takes little of the processor: one thread, one `epoll`, one buffer.
//!
//! Without a rate it keeps a number of connections busy: what the cluster can do. What such a client measures as latency
//! is too good: while the servers stall, it asks nothing, and the requests that others would have made meanwhile are
//! not counted (coordinated omission). With a rate each request has its time, whether the ones before it are done or
//! not, and its latency counts from that time.

mod connection;
mod engine;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use hdrhistogram::Histogram;

pub(crate) use engine::run;

/// What a client does.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// Where it connects to.
    pub(crate) server: SocketAddrV4,
    /// Its own addresses, which take turns. The kernel chooses the ports.
    pub(crate) sources: Vec<Ipv4Addr>,
    /// How many connections it has at most.
    pub(crate) connections: usize,
    /// How many requests it begins each second; `None`: as many as the connections carry.
    pub(crate) rate: Option<f64>,
    /// How long it goes on before it counts.
    pub(crate) warm_up: Duration,
    /// How long it counts.
    pub(crate) duration: Duration,
    /// Requests that each connection has; then it is closed.
    pub(crate) per_connection: u64,
    /// What is asked, and what answers.
    pub(crate) exchange: Exchange,
}

/// What goes over a connection.
#[derive(Clone, Debug)]
pub(crate) enum Exchange {
    /// So many bytes, which come back (the paper's §4.2).
    Echo(usize),
    /// GET requests for these paths in turn; each answer has a `Content-Length`.
    Get {
        /// The paths, with their `/`.
        paths: Vec<String>,
    },
}

/// What a client saw in the time in which it counted.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Requests answered in full.
    pub(crate) answered: u64,
    /// Bytes of the answers.
    pub(crate) bytes: u64,
    /// Requests that failed, by reason: `connect`, `reset`, `closed`, `wrong`, `timeout`.
    pub(crate) failed: BTreeMap<&'static str, u64>,
    /// For how long it counted.
    pub(crate) time: Duration,
    /// Processor time of the client's thread in that time (what the kernel does in soft interrupts for it is not in it).
    pub(crate) cpu: Duration,
    /// Microseconds from when a request was due (with a rate) or its connection was begun (without) to the whole answer.
    pub(crate) latency: Histogram<u64>,
    /// Microseconds from sending a request to the first byte of its answer.
    pub(crate) first_byte: Histogram<u64>,
    /// Requests that were due and not begun when the time was over: the client could not keep its rate up.
    pub(crate) behind: u64,
}

impl Seen {
    /// Requests answered per second.
    pub(crate) fn rate(&self) -> f64 {
        self.answered as f64 / self.time.as_secs_f64()
    }

    /// Why requests failed, and how many, as `reset 2 timeout 5`.
    pub(crate) fn reasons(&self) -> String {
        let reasons = self.failed.iter();
        let reasons: Vec<_> = reasons
            .map(|(why, count)| format!("{why} {count}"))
            .collect();
        reasons.join(" ")
    }

    /// Requests that failed, all reasons together.
    pub(crate) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}
