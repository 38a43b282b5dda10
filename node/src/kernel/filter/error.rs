//! What can go wrong with the filter.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use thiserror::Error;

/// What can go wrong with the filter.
#[derive(Debug, Error)]
pub enum FilterError {
    /// The directory for the pins can't be made.
    #[error("cannot make {path} for the filter's maps; is a BPF file system mounted there?")]
    Pins {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another release's daemon has left programs and maps that this one can't use.
    #[error(
        "{path} holds the filter of another release, which still runs: remove it with that release's \
         `dts detach`, or with this one's (its connections end)"
    )]
    OtherLayout {
        /// The other release's pins.
        path: PathBuf,
    },
    /// The kernel refused the object.
    #[error("the kernel refused the packet filter")]
    Load(#[from] EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused a program of the packet filter")]
    Program(#[from] ProgramError),
    /// A program could not be attached.
    #[error("cannot attach {program} to {interface}: {error}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map operation failed.
    #[error("map {map} of the packet filter: {error}")]
    Map {
        /// The map.
        map: &'static str,
        /// Why.
        error: MapError,
    },
    /// Reading a map as a whole failed.
    #[error("cannot read map {map} of the packet filter")]
    Read {
        /// The map.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The object does not have what this daemon expects.
    #[error("the packet filter has no {what}: daemon and filter were not built together")]
    Object {
        /// The program or map.
        what: &'static str,
    },
}
