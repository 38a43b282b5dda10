//! The configuration: one TOML file per node, read into values that need no further checks.
//!
//! [`Config::load`] reports everything that is wrong with a file at once, each finding with its
//! place and with what to write instead. What it returns is consistent: names resolve, ports and
//! addresses don't collide, numbers are in range. `docs/configuration.md` describes every key.
//!
//! The file is walked with its spans ([`toml::de::DeTable`]) rather than deserialized by `serde`,
//! which would stop at the first value of a wrong type.

mod check;
mod diagnostic;
mod model;
mod parse;
mod reader;
mod secret;
mod values;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

pub use diagnostic::{Diagnostic, Severity};
pub(crate) use model::begins_like;
pub use model::{
    ClusterConfig, Config, Fate, Greeting, Handover, HashKind, Matcher, Member, Mode, NodeConfig,
    NodeId, ProcessSocket, Protocol, RingConfig, Rule, Service, Target, service_id,
};
pub use secret::{Secret, SecretError};

/// Where the configuration is when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/dts/dts.toml";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: cannot read the configuration: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file can be read but not used.
    #[error("{}", listing(findings))]
    Invalid {
        /// Every error and warning, in the order of the file. At least one is an error.
        findings: Vec<Diagnostic>,
    },
}

impl Config {
    /// Reads a configuration file; returns it with the warnings about it.
    ///
    /// # Errors
    ///
    /// When the file can't be read, or with everything that is wrong in it.
    pub fn load(path: &Path) -> Result<(Self, Vec<Diagnostic>), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Reads the text of a configuration file; `path` is used in messages, and relative paths in the
    /// text are relative to its directory.
    ///
    /// # Errors
    ///
    /// With everything that is wrong in the text.
    pub fn parse(path: &Path, text: &str) -> Result<(Self, Vec<Diagnostic>), ConfigError> {
        let mut report = diagnostic::Report::new(path, text);
        let config = parse::draft(path, text, &mut report)
            .and_then(|draft| check::finish(draft, &mut report));
        let findings = report.into_findings();
        match config {
            Ok(config)
                if findings
                    .iter()
                    .all(|found| found.severity == Severity::Warning) =>
            {
                Ok((config, findings))
            }
            _ => Err(ConfigError::Invalid { findings }),
        }
    }
}

fn listing(findings: &[Diagnostic]) -> String {
    let errors = findings
        .iter()
        .filter(|found| found.severity == Severity::Error)
        .count();
    let mut text = String::new();
    for finding in findings {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{finding}");
    }
    let plural = if errors == 1 { "" } else { "s" };
    let _ = write!(text, "{errors} error{plural} in the configuration");
    text
}

#[cfg(test)]
mod tests;
