//! How handovers end, and how many did.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;

use super::GreetingError;

/// Why a handover failed.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// Nothing listens on the service's port at the target.
    #[error("the target's server refused the connection")]
    Refused,
    /// The target did not answer.
    #[error("the target did not answer within {0:?}")]
    Unreachable(Duration),
    /// The client went away before the target had the connection.
    #[error("the client closed or reset the connection")]
    ClientGone,
    /// The target reset the connection while it took the request.
    #[error("the target reset the connection before it had the whole request: {0}")]
    ResetByTarget(io::Error),
    /// The target did not take the whole request in time.
    #[error("the target did not acknowledge the whole request within {0:?}")]
    Incomplete(Duration),
    /// The target's server has not given the greeting that the client was given.
    #[error("{0}")]
    Greeting(GreetingError),
    /// This node could not make the handover connection.
    #[error("cannot open a handover connection: {0}")]
    Local(io::Error),
}

impl HandoverError {
    /// Whether another target may be tried: no server has seen the connection.
    #[must_use]
    pub const fn allows_another_target(&self) -> bool {
        matches!(self, Self::Refused | Self::Unreachable(_) | Self::Local(_))
    }
}

/// How many handovers there are and were.
#[derive(Debug, Default)]
pub struct HandoverCounters {
    /// Begun.
    pub started: AtomicU64,
    /// Completed.
    pub done: AtomicU64,
    /// Failed: refused by the target's server.
    pub refused: AtomicU64,
    /// Failed: no answer from the target.
    pub unreachable: AtomicU64,
    /// Failed: the client went away.
    pub client_gone: AtomicU64,
    /// Failed: the target reset the connection.
    pub reset: AtomicU64,
    /// Failed: the target never acknowledged the whole request.
    pub incomplete: AtomicU64,
    /// Failed: the target's server gave another greeting than the client had been given, or none.
    pub greeting: AtomicU64,
    /// Failed: on this node.
    pub local: AtomicU64,
}

impl HandoverCounters {
    /// The failures by reason.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        [
            ("refused", &self.refused),
            ("unreachable", &self.unreachable),
            ("client_gone", &self.client_gone),
            ("reset", &self.reset),
            ("incomplete", &self.incomplete),
            ("greeting", &self.greeting),
            ("local", &self.local),
        ]
        .into_iter()
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }

    pub(super) fn failed(&self, error: &HandoverError) -> &AtomicU64 {
        match error {
            HandoverError::Refused => &self.refused,
            HandoverError::Unreachable(_) => &self.unreachable,
            HandoverError::ClientGone => &self.client_gone,
            HandoverError::ResetByTarget(_) => &self.reset,
            HandoverError::Incomplete(_) => &self.incomplete,
            HandoverError::Greeting(_) => &self.greeting,
            HandoverError::Local(_) => &self.local,
        }
    }
}
