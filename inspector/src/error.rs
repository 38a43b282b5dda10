//! What can go wrong.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error as ThisError;

use crate::protocol::{EndReason, Malformed, Refusal};

/// Why something can't be done.
#[derive(Debug, ThisError)]
pub enum Error {
    /// No daemon answers at the service's socket.
    #[error("{}: cannot connect to the daemon: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon doesn't want this process as the service's inspector.
    #[error("the daemon refuses: {}", refusal(*.0))]
    Refused(Refusal),
    /// What the daemon sent can't be understood.
    #[error("the daemon sent {0}")]
    Malformed(#[from] Malformed),
    /// The daemon has ended, or has closed the attachment. Attach again.
    #[error("the attachment to the daemon is over")]
    Gone,
    /// The connection has been decided about already, or was left.
    #[error("the connection has been decided about")]
    Decided,
    /// There is nothing to decide any more about the connection.
    #[error("the connection is over: {}", ending(*.0))]
    Ended(EndReason),
    /// No node of the cluster has this name or address.
    #[error("{0:?} is no node of the cluster")]
    NoNode(String),
    /// The request isn't the bytes that were read.
    #[error("the request is not what was read from the connection")]
    OtherRequest,
    /// There is nothing at present, and the inspector doesn't block.
    #[error("there is nothing at present")]
    WouldBlock,
    /// The system refused something.
    #[error(transparent)]
    System(#[from] io::Error),
}

fn refusal(reason: Refusal) -> &'static str {
    match reason {
        Refusal::Version => "it speaks another version of the protocol",
        Refusal::Service => "the socket is another service's",
        Refusal::TooMany => "too many processes are attached to the service",
    }
}

fn ending(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Client => "its client has gone",
        EndReason::Overdue => "it was undecided for too long",
        EndReason::Dropped => "the daemon has given it up",
    }
}

impl Error {
    /// The error's number in C, as of `errno`.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::Connect { source, .. } | Self::System(source) => {
                return source.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            }
            Self::Refused(Refusal::Version) => Errno::PROTONOSUPPORT,
            Self::Refused(Refusal::Service) => Errno::NOENT,
            Self::Refused(Refusal::TooMany) => Errno::USERS,
            Self::Malformed(_) => Errno::PROTO,
            Self::Gone => Errno::NOTCONN,
            Self::Decided => Errno::BADF,
            Self::Ended(EndReason::Client) => Errno::CONNRESET,
            Self::Ended(EndReason::Overdue) => Errno::TIMEDOUT,
            Self::Ended(EndReason::Dropped) => Errno::CONNABORTED,
            Self::NoNode(_) => Errno::HOSTUNREACH,
            Self::OtherRequest => Errno::INVAL,
            Self::WouldBlock => Errno::AGAIN,
        };
        errno.raw_os_error()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::System(error) => error,
            error => {
                let kind = Self::from_raw_os_error(error.errno()).kind();
                Self::new(kind, error)
            }
        }
    }
}
