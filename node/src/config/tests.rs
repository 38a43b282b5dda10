//! Whole files: what they become, and what is said about them.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod cluster;
mod file;
mod first;
mod services;

/// The example of the documentation, with its lines numbered by the assertions below.
const EXAMPLE: &str = r#"[cluster]
name = "demo"
secret_file = "/etc/dts/secret"

[node]
id = "n1"
front = "eth0"
back = "eth1"
address = "198.18.1.11"

[membership]
source = "static"
members = [
  { id = "n1", address = "198.18.1.11" },
  { id = "n2", address = "198.18.1.12", inspect = false },
]

[[service]]
name = "web"
vip = "198.18.0.100"
port = 80
mode = "l7"
inspector_port = 8081
keep_local = ["/downloads/dir0000000001/"]

[[service.rule]]
path_prefix = "/downloads/"
to = { hash = "uri" }

[[service.rule]]
host = "IMG.example.com"
to = { nodes = ["n2", "n1"] }

[[service]]
name = "plain"
vip = "198.18.0.100"
port = 5000
mode = "l4"
"#;

fn parse(text: &str) -> Result<(Config, Vec<Diagnostic>), ConfigError> {
    Config::parse(Path::new("/etc/dts/dts.toml"), text)
}

/// The example with `from`, which must be in it, replaced by `to`.
fn changed(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "{from:?} is not in the example");
    EXAMPLE.replacen(from, to, 1)
}

/// What is wrong with `text`, without the file's name and without warnings.
fn errors(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid { findings }) => findings
            .iter()
            .filter(|found| found.severity == Severity::Error)
            .map(|found| found.to_string().replacen("/etc/dts/dts.toml:", "", 1))
            .collect(),
        Err(other) => panic!("{other}"),
    }
}

#[track_caller]
fn assert_only_error(text: &str, expected: &str) {
    assert_eq!(errors(text), [expected]);
}
