//! The HTTP inspector decides the same whatever the segments, and never panics.
#![no_main]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;

use dts_core::ring::RingHashSpec;
use dts_node::config::Config;
use dts_node::inspect::http::HttpInspector;
use dts_node::inspect::{ConnectionInfo, Decision, Inspector};
use libfuzzer_sys::fuzz_target;

const CONFIG: &str = r#"
cluster = { name = "fuzz", secret_file = "secret" }
node = { id = "n1", front = "eth0", back = "eth1", address = "198.18.1.11" }
membership.members = [
  { id = "n1", address = "198.18.1.11" }, { id = "n2", address = "198.18.1.12" },
]
[[service]]
name = "web"
vip = "198.18.0.100"
port = 80
mode = "l7"
inspector_port = 8081
undecided_bytes = 512
keep_local = ["/a/b/"]
rule = [
  { path = "/c", to = { nodes = ["n1", "n2"] } },
  { path_prefix = "/a/", to = { hash = "uri" } },
  { host = "h", to = { nodes = ["n2"] } },
]
"#;

static INSPECTOR: LazyLock<HttpInspector> = LazyLock::new(|| {
    let (config, _) = Config::parse(Path::new("dts.toml"), CONFIG).expect("valid");
    HttpInspector::new(&config.services[0], RingHashSpec::default())
});

fuzz_target!(|bytes: &[u8]| {
    let connection = ConnectionInfo {
        remote: SocketAddr::from(([198, 18, 0, 200], 40000)),
        local: SocketAddr::from(([198, 18, 0, 100], 80)),
    };
    let whole = INSPECTOR.inspect(&connection, bytes);
    for end in 0..bytes.len() {
        let part = INSPECTOR.inspect(&connection, &bytes[..end]);
        assert!(
            part == Decision::NeedMore || part == whole,
            "{part:?}, then {whole:?}"
        );
    }
});
