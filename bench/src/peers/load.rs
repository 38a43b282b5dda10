//! Requests for small files: a generator for each node, at the same time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use dts_lab::{Lab, Place};
use hdrhistogram::Histogram;

use super::moved::moved;
use super::served::{Served, forget, served};
use super::{CLIENT, Peers, Side};
use crate::generator::{self, Exchange, Seen, Workload};

/// How long a measurement goes on before it counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// The server's log entries come a little later than its answers.
const LOGS: Duration = Duration::from_millis(100);
/// One failed request in so many is shown; more of them, and the figure is of something else.
const TOLERATED: u64 = 100;

/// Which files a measurement asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requests {
    /// Each generator those of one node.
    OwnNode,
    /// Each generator those of all nodes in turn.
    Alternating,
    /// One generator, those of this node.
    Of(Place),
}

/// What the generators do.
#[derive(Clone, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) requests: Requests,
    /// The file's name and its size.
    pub(crate) file: (&'a str, u64),
    /// Connections at the same time, in all.
    pub(crate) connections: usize,
    /// Requests per second, in all; `None`: as many as it takes.
    pub(crate) rate: Option<f64>,
    pub(crate) time: Duration,
    /// Requests of each connection.
    pub(crate) per_connection: u64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Requests per second.
    pub(crate) rate: f64,
    pub(crate) answered: u64,
    pub(crate) failed: BTreeMap<&'static str, u64>,
    pub(crate) behind: u64,
    /// Microseconds, see [`Seen`].
    pub(crate) latency: Histogram<u64>,
    pub(crate) first_byte: Histogram<u64>,
    /// What the servers say, who also count what came before and after.
    pub(crate) served: Served,
}

impl Outcome {
    pub(crate) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

impl Load<'_> {
    /// Puts it on a side, and makes sure that those have answered who should.
    pub(crate) fn put_on(&self, peers: &Peers, side: Side) -> anyhow::Result<Outcome> {
        self.measure(peers, side)
            .with_context(|| format!("measuring {}", side.name()))
    }

    fn measure(&self, peers: &Peers, side: Side) -> anyhow::Result<Outcome> {
        peers.check()?;
        let lab = peers.lab(side);
        forget(lab)?;
        let before = moved(lab, side)?;
        let seen = together(lab, &self.workloads(peers, side)?)?;
        std::thread::sleep(LOGS);
        let outcome = Outcome::of(seen, served(lab, self.file.1)?)?;
        forget(lab)?;
        self.check(&outcome, peers, side)?;
        if let (Some(before), Some(after)) = (before, moved(lab, side)?) {
            let (moved, connections) = (after - before, outcome.served.connections);
            // An adopted request may be spliced for once, where it came late or in parts.
            ensure!(
                moved as f64 >= 0.95 * connections as f64,
                "the servers had {connections} connections, of which only {moved} came to them in this way"
            );
        }
        Ok(outcome)
    }

    fn workloads(&self, peers: &Peers, side: Side) -> anyhow::Result<Vec<Workload>> {
        let nodes = peers.nodes();
        let asked = match self.requests {
            Requests::Of(node) => vec![node],
            Requests::OwnNode | Requests::Alternating => nodes.clone(),
        };
        let path = |node: &Place| side.path(*node, self.file.0);
        let workload = |(number, node): (usize, &Place)| {
            let paths = match self.requests {
                // They don't all begin with the same node.
                Requests::Alternating => {
                    let turned = nodes.iter().cycle().skip(number);
                    turned.take(nodes.len()).map(path).collect()
                }
                Requests::OwnNode | Requests::Of(_) => vec![path(node)],
            };
            anyhow::Ok(Workload {
                server: side.server(*node)?,
                sources: peers.sources(),
                connections: (self.connections / asked.len()).max(1),
                rate: self.rate.map(|rate| rate / asked.len() as f64),
                warm_up: WARM_UP,
                duration: self.time,
                per_connection: self.per_connection,
                exchange: Exchange::Get { paths },
            })
        };
        asked.iter().enumerate().map(workload).collect()
    }

    /// The share of the requests that must have been answered by the node that their path names.
    fn least_share(&self, side: Side) -> f64 {
        let changes = self.requests == Requests::Alternating && self.per_connection > 1;
        match side {
            // None of a node's own is asked for there.
            Side::L4 | Side::XtCluster => 1.0,
            // A connection stays for good where a request came in parts, or with another one.
            Side::Adopt if changes => 0.99,
            _ if changes && !side.each_request() => 0.0,
            _ => 1.0,
        }
    }

    /// Fails when the figure would be of something else.
    fn check(&self, outcome: &Outcome, peers: &Peers, side: Side) -> anyhow::Result<()> {
        let Outcome {
            answered, served, ..
        } = outcome;
        ensure!(
            *answered > 0,
            "no request was answered: {:?}",
            outcome.failed
        );
        ensure!(
            outcome.failures() <= answered / TOLERATED,
            "{answered} requests were answered, and too many failed: {:?}",
            outcome.failed
        );
        ensure!(
            served.requests >= *answered && served.wrong == 0,
            "{answered} requests were answered, but the servers tell of {} good and {} other answers",
            served.requests,
            served.wrong
        );
        let expected = if side.is_proxy() { served.requests } else { 0 };
        ensure!(
            served.proxied == expected,
            "{} of {} requests came through a proxy",
            served.proxied,
            served.requests
        );
        let least = self.least_share(side) * served.requests as f64;
        ensure!(
            served.own as f64 >= least,
            "{} of {} requests were answered by a node whose they are not",
            served.requests - served.own,
            served.requests
        );
        let one = matches!(self.requests, Requests::Of(_));
        ensure!(
            one || served.nodes == peers.nodes().len() as u64,
            "only {} nodes have answered",
            served.nodes
        );
        Ok(())
    }
}

/// Runs the generators at the same time, in the client.
fn together(lab: &Lab, workloads: &[Workload]) -> anyhow::Result<Vec<Seen>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = workloads
            .iter()
            .map(|workload| scope.spawn(|| lab.within(CLIENT, || generator::run(workload))))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a load generator has panicked"))??
            })
            .collect()
    })
}

impl Outcome {
    /// Adds the generators up.
    fn of(seen: Vec<Seen>, served: Served) -> anyhow::Result<Self> {
        let mut seen = seen.into_iter();
        let first = seen.next().context("a load without a generator")?;
        let mut sum = Self {
            rate: first.rate(),
            answered: first.answered,
            failed: first.failed,
            behind: first.behind,
            latency: first.latency,
            first_byte: first.first_byte,
            served,
        };
        for other in seen {
            sum.rate += other.rate();
            sum.answered += other.answered;
            sum.behind += other.behind;
            for (reason, count) in other.failed {
                *sum.failed.entry(reason).or_default() += count;
            }
            sum.latency.add(other.latency)?;
            sum.first_byte.add(other.first_byte)?;
        }
        Ok(sum)
    }
}
