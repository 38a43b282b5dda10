//! Any text either becomes a configuration or a list of errors.
#![no_main]

use std::path::Path;

use dts_node::config::{Config, ConfigError, Severity};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::parse(Path::new("dts.toml"), text) {
        Ok((config, warnings)) => {
            assert!(
                warnings
                    .iter()
                    .all(|found| found.severity == Severity::Warning)
            );
            assert_eq!(config.this_member().1.id, config.node.id);
        }
        Err(ConfigError::Invalid { findings }) => {
            assert!(
                findings
                    .iter()
                    .any(|found| found.severity == Severity::Error)
            );
        }
        Err(ConfigError::Unreadable { .. }) => unreachable!("nothing is read from a file"),
    }
});
