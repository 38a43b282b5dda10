//! The kernel side of a node: the filter, its maps, and what the host must be set up with.
//!
//! The only module of this crate with `unsafe` in it.

pub mod attach;
mod batch;
mod btf;
pub mod filter;
mod handovers;
pub mod host;
mod kfunc;
mod shared;
pub mod socket;

pub use attach::{AttachMode, Attachment};
pub use filter::{Filter, FilterError, Listener};
