//! Inspector processes: programs outside the daemon that decide about a service's connections in place of its rules.
//!
//! They attach through a Unix socket of the service's (`sockets`), are shown what clients have sent, and answer when
//! they like. The daemon waits for none of them. Whoever has an undecided connection, a worker or the thread of adopted
//! ones, keeps a [`Consultation`] about it: it shows bytes by copying them into the process's queue, and is woken when
//! there is an answer. A task of the event loop writes the queue to the socket as fast as the process reads (`serve`).
//!
//! A process that doesn't answer lets its connections reach the service's `undecided_ms`, and the limits below; one that
//! ends gives them their fate at once. In the same way, at once, fare connections that find no process.

mod attached;
mod serve;
mod sockets;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dts_core::addr::FlowKey;
use dts_inspector::protocol::{EndReason, ToProcess, WireTarget};
use dts_inspector::{Cluster, Member};

use crate::config::NodeId;
use crate::current::Current;
use crate::inspect::http::HttpInspector;
use crate::inspect::{ConnectionInfo, Decision, NodeSet, Reason, TargetChoice};

use attached::{Answer, Attached, Question, Refused};

pub use attached::Wake;
pub use sockets::{SocketError, Sockets};

/// How long a connection may be on its way from one thread to another before its consultation is given up.
const ON_THE_WAY: Duration = Duration::from_secs(5);

/// What became of a service's connections at its inspector processes.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// Processes that have attached.
    pub attached: AtomicU64,
    /// Connections that found no process.
    pub unattended: AtomicU64,
    /// Connections whose process ended before it had decided.
    pub orphaned: AtomicU64,
    /// Connections for which no process had room.
    pub crowded: AtomicU64,
    /// Connections that a process did not want to decide about.
    pub passed: AtomicU64,
    /// Decisions for a node that is no member any more.
    pub no_member: AtomicU64,
    /// Processes that were detached because they said what can't be understood, or nothing at all.
    pub malformed: AtomicU64,
}

/// The inspector processes of one service.
#[derive(Debug)]
pub struct Processes {
    service: String,
    attached: Mutex<Vec<Arc<Attached>>>,
    /// Those that are connected, whether they have greeted or not.
    connected: AtomicUsize,
    /// Consultations of connections that go from one thread to another.
    on_the_way: Mutex<HashMap<FlowKey, OnTheWay>>,
    cluster: Mutex<Arc<Told>>,
    counters: ProcessCounters,
}

/// A consultation whose connection goes from one thread to another.
#[derive(Debug)]
struct OnTheWay {
    question: Question,
    /// What the connection's client had sent by then.
    bytes: Vec<u8>,
    since: Instant,
}

/// The cluster as processes are told it.
#[derive(Debug, Default)]
struct Told {
    frame: Vec<u8>,
    members: Vec<(IpAddr, NodeId)>,
}

impl Told {
    fn new(current: &Current) -> Option<Self> {
        let config = &current.config;
        let members = config.members.iter().map(|member| Member {
            name: member.id.to_string(),
            address: member.address,
        });
        let requests = current.placement.requests();
        let cluster = Cluster::new(
            current.flows.epoch(),
            config.this_member().0,
            members.collect(),
            *requests.hash(),
            requests.points().to_vec(),
        )?;
        let mut frame = Vec::new();
        ToProcess::Cluster(cluster).emit(&mut frame);
        let members = config.members.iter().map(|m| (m.address, m.id.clone()));
        Some(Self {
            frame,
            members: members.collect(),
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Processes {
    /// Those of a service; none is attached yet.
    #[must_use]
    pub fn new(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            attached: Mutex::default(),
            connected: AtomicUsize::new(0),
            on_the_way: Mutex::default(),
            cluster: Mutex::default(),
            counters: ProcessCounters::default(),
        }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &ProcessCounters {
        &self.counters
    }

    /// How many are attached.
    #[must_use]
    pub fn attached(&self) -> usize {
        locked(&self.attached).len()
    }

    /// How many connections they are asked about at present.
    #[must_use]
    pub fn asking(&self) -> usize {
        let attached = locked(&self.attached);
        attached.iter().map(|process| process.undecided()).sum()
    }

    /// Tells all of them of a configuration, and those that will attach.
    fn tell(&self, current: &Current) {
        let Some(told) = Told::new(current) else {
            tracing::error!("the cluster cannot be told to inspector processes");
            return;
        };
        let told = Arc::new(told);
        let attached = locked(&self.attached);
        *locked(&self.cluster) = Arc::clone(&told);
        for process in &*attached {
            process.tell(&told);
        }
    }

    /// Asks a process about a connection: the one with the fewest undecided ones.
    fn open(&self, info: &ConnectionInfo, wake: Wake) -> Result<Question, &AtomicU64> {
        let attached = locked(&self.attached);
        let mut by_load: Vec<_> = attached.iter().map(|p| (p.undecided(), p)).collect();
        if by_load.is_empty() {
            return Err(&self.counters.unattended);
        }
        by_load.sort_by_key(|(undecided, _)| *undecided);
        let mut wake = wake;
        for (_, process) in by_load {
            match process.open(info, wake) {
                Ok(question) => return Ok(question),
                Err(back) => wake = back,
            }
        }
        Err(&self.counters.crowded)
    }

    /// Takes the consultation of a connection that another thread has sent here. One that was about other bytes is of an
    /// earlier connection, which never arrived.
    fn arrived(&self, subject: &Subject<'_>) -> Option<Question> {
        let arrived = locked(&self.on_the_way).remove(subject.flow)?;
        // Either may have more of them.
        let same = arrived.bytes.iter().zip(subject.bytes).all(|(a, b)| a == b);
        same.then_some(arrived.question)
    }

    /// Gives up consultations of connections that have not arrived anywhere.
    fn give_up_lost(&self) {
        let now = Instant::now();
        locked(&self.on_the_way).retain(|_, lost| now - lost.since < ON_THE_WAY);
    }

    /// What an answer means for the service.
    fn meaning(&self, answer: Answer, rules: &HttpInspector) -> Decision {
        let target = match answer {
            Answer::Handover(target) => target,
            Answer::Reject => return Decision::Reject(Reason::Refused),
            Answer::Leave => {
                count(&self.counters.passed);
                return rules.overdue(Reason::NoInspector);
            }
        };
        Decision::Handover(match target {
            WireTarget::Default => rules.default_choice(),
            WireTarget::Local => TargetChoice::Local,
            WireTarget::Node(address) => {
                let told = Arc::clone(&locked(&self.cluster));
                let member = told.members.iter().find(|(known, _)| *known == address);
                let node = member.map(|(_, id)| id.clone());
                if node.is_none() {
                    count(&self.counters.no_member);
                }
                // Of no node: as if the node were gone.
                TargetChoice::Nodes(Arc::new(NodeSet::new(node.into_iter().collect::<Vec<_>>())))
            }
        })
    }
}

/// A connection, as it is known to whoever asks about it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The client's flow, local port the service's own.
    pub flow: &'a FlowKey,
    /// What processes are told of it.
    pub info: &'a ConnectionInfo,
    /// Everything that the client has sent.
    pub bytes: &'a [u8],
    /// Whether nothing will follow that could be shown.
    pub last: bool,
}

/// What a process is asked about one connection. Dropping it tells the process that there is nothing to decide any
/// more.
#[derive(Debug, Default)]
pub struct Consultation {
    question: Option<Question>,
}

impl Consultation {
    /// Shows a process what there is, and says what it has decided: [`Decision::NeedMore`] until it has. `wake` is how
    /// to tell the caller that it has; it is called at most once, from another thread.
    ///
    /// With no process, or none any more, the decision is what the service's `on_undecided` says.
    pub fn decide(
        &mut self,
        processes: &Processes,
        rules: &HttpInspector,
        subject: &Subject<'_>,
        wake: impl FnOnce() -> Wake,
    ) -> Decision {
        let question = match &mut self.question {
            Some(question) => question,
            none => {
                let opened = match processes.arrived(subject) {
                    Some(mut question) => {
                        question.wake_by(wake());
                        Ok(question)
                    }
                    None => processes.open(subject.info, wake()),
                };
                match opened {
                    Ok(question) => none.insert(question),
                    Err(counter) => {
                        count(counter);
                        return rules.overdue(Reason::NoInspector);
                    }
                }
            }
        };
        match question.ask(subject.bytes, subject.last) {
            Ok(None) => Decision::NeedMore,
            Ok(Some(answer)) => processes.meaning(answer, rules),
            Err(refused) => {
                count(match refused {
                    Refused::Gone => &processes.counters.orphaned,
                    Refused::Crowded => &processes.counters.crowded,
                });
                rules.overdue(Reason::NoInspector)
            }
        }
    }

    /// Notes why it may not be undecided any longer.
    pub fn overdue(&mut self, reason: Reason) {
        if let Some(question) = &mut self.question {
            question.end_as(match reason {
                Reason::TooMany => EndReason::Dropped,
                _ => EndReason::Overdue,
            });
        }
    }

    /// Leaves it to the thread that the connection goes to next, with the `bytes` that its client has sent.
    pub fn send(self, processes: &Processes, flow: FlowKey, bytes: &[u8]) {
        if let Some(question) = self.question {
            let on_the_way = OnTheWay {
                question,
                bytes: bytes.to_vec(),
                since: Instant::now(),
            };
            locked(&processes.on_the_way).insert(flow, on_the_way);
        }
    }
}
