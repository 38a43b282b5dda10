//! DTS clusters on one machine: network namespaces, real kernels' TCP, real servers.
//!
//! A lab is a client, a broadcast network ("front"), a back network and up to 16 nodes, each in a
//! network namespace of its own, with nginx and the DTS daemon in each node. Its networks can be
//! impaired, its nodes limited to a part of a core, its traffic captured and parsed. Tests, the
//! demo and the benchmarks are built on it.
//!
//! ```no_run
//! use dts_lab::{Effect, Impairment, LabGuard, LabSpec, Network, Place};
//!
//! let lab = LabGuard::up(LabSpec::new("example", 2, "target/debug/dts"))?;
//! lab.impair(&Impairment::of_network(Network::Front, Effect::Loss(0.01)))?;
//! println!("{}", lab.sh(Place::Client(1), "curl -s http://198.18.0.100/whoami")?);
//! # Ok::<(), dts_lab::LabError>(())
//! ```
//!
//! Everything a lab makes carries its name and is found by that name alone: [`down`] removes a lab
//! whose maker was killed half-way as well as one that works.

mod capture;
mod cgroup;
pub mod cli;
mod content;
mod cpu;
mod daemon;
pub mod delay_line;
mod disk;
mod disk_waits;
mod error;
mod guard;
mod impair;
mod lab;
pub mod ladder;
mod lock;
mod measure;
mod netns;
mod nft;
mod place;
mod process;
mod server;
mod spec;
mod topology;

pub use capture::{Capture, Segment, TcpFlags, TcpOptions};
pub use content::{ContentFile, FileSet, sha256};
pub use disk_waits::{DiskWaits, WaitSampler};
pub use error::{LabError, Result};
pub use guard::{LabGuard, remove_on_signals};
pub use impair::{Direction, Effect, Impairment};
pub use lab::{Lab, LabSummary, down, list};
pub use measure::Counters;
pub use place::{Family, Network, Place};
pub use process::LabProcess;
/// The signals that [`Lab::stop_daemon`] and [`LabProcess::signal`] take.
pub use rustix::process::Signal;
pub use server::AccessLogEntry;
pub use spec::{
    ClusterSpec, DiskSpec, LabSpec, MAX_CLIENTS, MAX_NODES, NodeSpec, SELF_ADDRESS,
    SELF_ADDRESS_V6, ServerKind, VIP, VIP_V6,
};
