//! For programs that decide which node of a DTS cluster gets a connection.
//!
//! A service whose configuration says `inspector = "process"` leaves the decision about each new connection to a
//! program outside the daemon. The program attaches to the service on each node, is shown what clients send, and says
//! where their connections go, in the loop of the paper's Fig. 3 (DTS §2.1): accept, read, decide, request the handover.
//!
//! ```no_run
//! use std::io::Read as _;
//!
//! use dts_inspector::{Inspector, Target};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let web = Inspector::attach("web")?;
//! loop {
//!     let mut connection = web.accept()?;
//!     let mut buffer = [0; 8192];
//!     let Ok(length) = connection.read(&mut buffer) else { continue };
//!     let request = &buffer[..length];
//!     let cluster = web.cluster();
//!     let target = match cluster.ring_lookup(request) {
//!         Some(member) => Target::Node(&member.name),
//!         None => Target::Local,
//!     };
//!     if let Err(error) = connection.request_handover(target, request) {
//!         eprintln!("{error}");
//!     }
//! }
//! # }
//! ```
//!
//! - The bytes stay the client's: they are *shown*. Nothing can be changed, added or left out, and all that the client
//!   has sent goes to the target, whether it was read or not.
//! - A connection that isn't decided within the service's `undecided_ms` gets what `on_undecided` says. So does, at
//!   once, each one that the program [leaves](Connection::leave) or drops, and those of a program that ends.
//! - An [`Inspector`] and its [`Connection`]s may be used by several threads at the same time. A thread of the library's
//!   own reads from the daemon, so a program that is slow to accept or read delays only its own connections.
//! - After a `fork` only one of the two processes may go on with what was attached before.
//!
//! `docs/inspectors.md` tells more; the same for C programs is libdts (`capi/`).

#![forbid(unsafe_code)]

mod client;
mod cluster;
mod error;
pub mod protocol;
mod state;

pub use client::{Connection, Inspector, RUN_DIR, socket_path};
pub use cluster::{Cluster, Member};
pub use error::Error;
pub use state::Token;

/// Where a connection shall go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// To the service's default target.
    Default,
    /// To the node that the ring of connections chose: the one that this program runs on.
    Local,
    /// To the node with this name, or with this back address as text.
    Node(&'a str),
}
