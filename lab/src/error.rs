//! What can go wrong with a lab.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use thiserror::Error;

/// An error of a lab, with what it was about and, where it helps, what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LabError {
    /// The specification asks for something that cannot be built.
    #[error("lab specification: {0}")]
    InvalidSpec(String),

    /// A lab of this name is there already.
    #[error("lab `{name}` exists already; `dts lab down {name}` removes it")]
    Exists {
        /// The lab's name.
        name: String,
    },

    /// No lab of this name.
    #[error(
        "there is no lab `{name}` ({path} is missing); `dts lab list` shows the labs there are",
        path = path.display()
    )]
    NotFound {
        /// The lab's name.
        name: String,
        /// The state file that was looked for.
        path: PathBuf,
    },

    /// The lab has no such namespace.
    #[error("lab `{lab}` has no `{place}`: it has {nodes} nodes and {clients} client(s)")]
    NoSuchPlace {
        /// The lab's name.
        lab: String,
        /// What was asked for.
        place: String,
        /// Number of nodes.
        nodes: u8,
        /// Number of clients.
        clients: u8,
    },

    /// Labs need root.
    #[error("a lab makes network namespaces and needs root; run it with sudo")]
    NotRoot,

    /// A system call on a path failed.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },

    /// A system call without a path failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The operating system's answer.
        source: io::Error,
    },

    /// A program could not be started.
    #[error("cannot run `{program}`: {source}{hint}", hint = missing_program_hint(program, source))]
    Spawn {
        /// The program.
        program: String,
        /// The operating system's answer.
        source: io::Error,
    },

    /// A program that sets up or measures the lab failed.
    #[error("`{command}` failed ({status}){stderr}", stderr = indented(stderr))]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },

    /// A process of the lab ended instead of becoming ready.
    #[error(
        "{process} ended before it was ready; {path} ends with:{log}",
        path = log_path.display(), log = indented(log)
    )]
    Died {
        /// Which process.
        process: String,
        /// Its log.
        log_path: PathBuf,
        /// The log's last lines.
        log: String,
    },

    /// A process of the lab did not become ready in time.
    #[error(
        "{process} was not ready after {after:?}; {path} ends with:{log}",
        path = log_path.display(), log = indented(log)
    )]
    NotReady {
        /// Which process.
        process: String,
        /// How long was waited.
        after: Duration,
        /// Its log.
        log_path: PathBuf,
        /// The log's last lines.
        log: String,
    },

    /// A file of the lab does not hold what it should.
    #[error("{path}: {message}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },

    /// The machine cannot limit a node's resources.
    #[error(
        "no cgroup {controller} controller under {root}: mount it, or leave out this limit",
        root = root.display()
    )]
    NoController {
        /// `cpu`, `memory`, `blkio` or `io`.
        controller: &'static str,
        /// Where it was looked for.
        root: PathBuf,
    },

    /// Something of the lab resisted removal.
    #[error("lab `{name}` was not removed completely: {left}; `dts lab down {name}` tries again")]
    Leftover {
        /// The lab's name.
        name: String,
        /// What is still there, and why.
        left: String,
    },

    /// A signal asked the program to stop.
    #[error("interrupted")]
    Interrupted,
}

/// The result of an operation on a lab.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

impl LabError {
    /// For `map_err`: an I/O error on `path`.
    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { what, path, source }
    }

    /// For `map_err`: a failed system call.
    pub(crate) fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::System {
            what,
            source: source.into(),
        }
    }

    /// For `map_err`: `command` could not be started.
    pub(crate) fn spawn(command: &Command) -> impl FnOnce(io::Error) -> Self + use<> {
        let program = command.get_program().to_string_lossy().into_owned();
        move |source| Self::Spawn { program, source }
    }
}

/// A command line as a person would read it (not quoted for a shell).
pub(crate) fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last lines of a log, for an error message.
pub(crate) fn log_tail(path: &Path) -> String {
    const LINES: usize = 20;
    let log = std::fs::read(path).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn indented(text: &str) -> String {
    match text.trim_end() {
        "" => " (nothing)".to_owned(),
        text => text.lines().map(|line| format!("\n    {line}")).collect(),
    }
}

fn missing_program_hint(program: &str, source: &io::Error) -> &'static str {
    if source.kind() != io::ErrorKind::NotFound {
        return "";
    }
    match program.rsplit('/').next().unwrap_or(program) {
        "ip" | "ss" | "bridge" => " (Debian: apt install iproute2)",
        "nft" => " (Debian: apt install nftables)",
        "nginx" => " (Debian: apt install nginx-light)",
        "ethtool" => " (Debian: apt install ethtool)",
        "tcpdump" => " (Debian: apt install tcpdump)",
        _ => "",
    }
}
