//! One attached process: what it is asked, what it has not been told yet, what it has answered. No I/O.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use dts_inspector::protocol::{EndReason, MAX_BYTES, Malformed, ToDaemon, ToProcess, WireTarget};
use tokio::sync::Notify;

use super::{Told, locked};
use crate::inspect::ConnectionInfo;

/// How many undecided connections one process may have.
pub(super) const MOST_UNDECIDED: usize = 16_384;

/// How many bytes of them it may have been shown, or wait to be shown.
pub(super) const MOST_SHOWN: usize = 64 << 20;

/// How much is written at once, about.
const BATCH: usize = 64 * 1024;

/// How to tell that there is an answer.
pub struct Wake(Box<dyn Fn() + Send>);

impl Wake {
    /// By calling a function, which must not wait for anything.
    pub fn by(wake: impl Fn() + Send + 'static) -> Self {
        Self(Box::new(wake))
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

/// What a process has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Handover(WireTarget),
    Reject,
    Leave,
}

/// Why a process will not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It has ended.
    Gone,
    /// It has been shown as much as it may.
    Crowded,
}

/// A connection that a process is asked about.
#[derive(Debug)]
struct Asked {
    info: ConnectionInfo,
    /// What is to be shown and hasn't been written.
    fresh: Vec<u8>,
    /// How much has been shown or is about to be.
    shown: usize,
    /// Nothing will follow.
    last: bool,
    last_written: bool,
    /// Whether it has been written that there is such a connection.
    opened: bool,
    /// In the queue of those that have something to be written.
    queued: bool,
    answer: Option<Answer>,
    wake: Wake,
}

#[derive(Debug, Default)]
struct State {
    gone: bool,
    next: u64,
    asked: HashMap<u64, Asked>,
    queue: VecDeque<u64>,
    /// Connections of which it is to be told that they are over: it has been told that they are there.
    ended: VecDeque<(u64, EndReason)>,
    cluster: Option<Arc<Told>>,
    /// Bytes shown of all undecided connections.
    shown: usize,
}

/// An attached process.
#[derive(Debug, Default)]
pub(super) struct Attached {
    state: Mutex<State>,
    /// Told when there is something to be written.
    pub(super) work: Notify,
}

impl Attached {
    pub(super) fn tell(&self, told: &Arc<Told>) {
        locked(&self.state).cluster = Some(Arc::clone(told));
        self.work.notify_one();
    }

    pub(super) fn undecided(&self) -> usize {
        locked(&self.state).asked.len()
    }

    /// Opens a connection; gives `wake` back when there is no room.
    pub(super) fn open(
        self: &Arc<Self>,
        info: &ConnectionInfo,
        wake: Wake,
    ) -> Result<Question, Wake> {
        let mut state = locked(&self.state);
        if state.gone || state.asked.len() >= MOST_UNDECIDED || state.shown >= MOST_SHOWN {
            return Err(wake);
        }
        let id = state.next;
        state.next += 1;
        let asked = Asked {
            info: *info,
            fresh: Vec::new(),
            shown: 0,
            last: false,
            last_written: false,
            opened: false,
            queued: false,
            answer: None,
            wake,
        };
        state.asked.insert(id, asked);
        Ok(Question {
            process: Arc::clone(self),
            id,
            reason: EndReason::Client,
        })
    }

    /// Takes a message of the process's.
    pub(super) fn handle(&self, message: ToDaemon<'_>) -> Result<(), Malformed> {
        let (id, length, answer) = match message {
            ToDaemon::Hello { .. } => return Err(Malformed::Order("a second greeting")),
            ToDaemon::Handover { id, length, target } => (id, length, Answer::Handover(target)),
            ToDaemon::Reject { id } => (id, 0, Answer::Reject),
            ToDaemon::Leave { id } => (id, 0, Answer::Leave),
        };
        let mut state = locked(&self.state);
        if id >= state.next {
            return Err(Malformed::Order("a connection that was never opened"));
        }
        // One that has ended meanwhile: the process hasn't heard of it yet.
        let Some(asked) = state.asked.get_mut(&id) else {
            return Ok(());
        };
        if !asked.opened {
            return Err(Malformed::Order("a connection that was never opened"));
        }
        if length as usize > asked.shown - asked.fresh.len() {
            return Err(Malformed::Order("a request longer than what was shown"));
        }
        if asked.answer.is_none() {
            asked.answer = Some(answer);
            (asked.wake.0)();
        }
        Ok(())
    }

    /// Ends it: nothing that it was asked will be answered.
    pub(super) fn end(&self) {
        let mut state = locked(&self.state);
        state.gone = true;
        for asked in state.asked.values() {
            if asked.answer.is_none() {
                (asked.wake.0)();
            }
        }
    }

    /// Appends what is to be written, about [`BATCH`] bytes of it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut state = locked(&self.state);
        if let Some(told) = state.cluster.take() {
            out.extend_from_slice(&told.frame);
        }
        while out.len() < BATCH {
            let Some((id, reason)) = state.ended.pop_front() else {
                break;
            };
            ToProcess::Ended { id, reason }.emit(out);
        }
        while out.len() < BATCH {
            let Some(id) = state.queue.pop_front() else {
                break;
            };
            // What has ended is in the queue no more.
            if let Some(asked) = state.asked.get_mut(&id)
                && !asked.write(id, out)
            {
                state.queue.push_front(id);
            }
        }
    }
}

impl Asked {
    /// Writes what is new, as far as it fits into one message; `false` when there is more.
    fn write(&mut self, id: u64, out: &mut Vec<u8>) -> bool {
        if !self.opened {
            self.opened = true;
            let opened = ToProcess::Opened {
                id,
                client: self.info.remote,
                local: self.info.local,
            };
            opened.emit(out);
        }
        let data = &self.fresh[..self.fresh.len().min(MAX_BYTES)];
        let whole = data.len() == self.fresh.len();
        let last = self.last && whole;
        if !data.is_empty() || last && !self.last_written {
            let bytes = ToProcess::Bytes {
                id,
                offset: (self.shown - self.fresh.len()) as u32,
                last,
                data,
            };
            bytes.emit(out);
            self.last_written = last;
        }
        let written = data.len();
        self.fresh.drain(..written);
        if whole {
            self.fresh = Vec::new();
            self.queued = false;
        }
        whole
    }
}

/// One connection's place at a process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Question {
    process: Arc<Attached>,
    id: u64,
    reason: EndReason,
}

impl Question {
    /// Shows what is new of `bytes`, which are all from the first one on, and returns the answer if there is one.
    pub(super) fn ask(&mut self, bytes: &[u8], last: bool) -> Result<Option<Answer>, Refused> {
        let mut state = locked(&self.process.state);
        let gone = state.gone;
        let room = MOST_SHOWN.saturating_sub(state.shown);
        let asked = state.asked.get_mut(&self.id).ok_or(Refused::Gone)?;
        if asked.answer.is_some() {
            return Ok(asked.answer);
        }
        if gone {
            return Err(Refused::Gone);
        }
        let new = bytes.get(asked.shown..).unwrap_or_default();
        if new.len() > room {
            self.reason = EndReason::Dropped;
            return Err(Refused::Crowded);
        }
        if !new.is_empty() || last != asked.last {
            asked.fresh.extend_from_slice(new);
            asked.shown += new.len();
            asked.last |= last;
            let queued = std::mem::replace(&mut asked.queued, true);
            state.shown += new.len();
            if !queued {
                state.queue.push_back(self.id);
                self.process.work.notify_one();
            }
        }
        Ok(None)
    }

    /// Says how to tell of an answer from now on.
    pub(super) fn wake_by(&mut self, wake: Wake) {
        if let Some(asked) = locked(&self.process.state).asked.get_mut(&self.id) {
            asked.wake = wake;
        }
    }

    /// Says why it will end.
    pub(super) fn end_as(&mut self, reason: EndReason) {
        self.reason = reason;
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut state = locked(&self.process.state);
        let Some(asked) = state.asked.remove(&self.id) else {
            return;
        };
        state.shown -= asked.shown;
        if asked.queued {
            state.queue.retain(|id| *id != self.id);
        }
        if asked.opened && asked.answer.is_none() && !state.gone {
            state.ended.push_back((self.id, self.reason));
            self.process.work.notify_one();
        }
    }
}
