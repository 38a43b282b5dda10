//! The commands that ask a daemon, with one that has made-up answers behind a real socket.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use dts_node::admin::{
    AdminSource, Attach, Claim, ConnectionFilter, ConnectionList, HandoverCounts, LeaseView,
    OwnerView, ReloadReport, RingHashName, RingQuery, RingView, StatsView, StatusView, TraceBeat,
    TraceFeed, TraceLine, TraceQuery, TraceStart, serve,
};
use serde_json::{Value, json};

use super::{EXAMPLE, Ran, dts, dts_as_nobody, open_directory, text};

struct Sample;

impl AdminSource for Sample {
    fn status(&self) -> StatusView {
        StatusView {
            version: "0.1.0".to_owned(),
            cluster: "demo".to_owned(),
            node: "n1".to_owned(),
            address: "198.18.1.11".parse().unwrap(),
            pid: 4242,
            uptime_ms: 1500,
            lease: LeaseView {
                held: false,
                remaining_ms: 0,
            },
            ring_epoch: 3,
            attach: Attach::Clsact,
            interfaces: Vec::new(),
            members: Vec::new(),
            services: Vec::new(),
            handovers: HandoverCounts::default(),
            warnings: vec!["a warning".to_owned()],
        }
    }

    fn ring(&self, query: &RingQuery) -> Result<RingView, String> {
        let owner = query.lookup.clone().map(|of| OwnerView {
            of,
            hash: "8aede55bcb71aafb".to_owned(),
            id: "n2".to_owned(),
            address: "198.18.1.12".parse().unwrap(),
        });
        Ok(RingView {
            epoch: 3,
            hash: RingHashName::Md5,
            virtual_nodes: 63,
            members: Vec::new(),
            owner,
            points: query.points.then(Vec::new),
        })
    }

    fn connections(&self, filter: &ConnectionFilter) -> Result<ConnectionList, String> {
        // Shows that the filter has come through.
        Err(format!("no table for {filter:?}"))
    }

    fn stats(&self) -> Result<StatsView, String> {
        let inspector = BTreeMap::from([("accepted".to_owned(), 1234)]);
        Ok(StatsView::new(&[7], inspector))
    }

    fn reload(&self) -> Result<ReloadReport, String> {
        Err("dts.toml:3:1: error: no such key".to_owned())
    }

    /// One segment, which comes after a million have been missed, and then no more than signs of life.
    fn trace(&self, query: &TraceQuery) -> Result<TraceFeed, String> {
        if let Some(service) = &query.service {
            return Err(format!("there is no service {service:?}"));
        }
        let (sender, lines) = tokio::sync::mpsc::channel(10);
        let segment = serde_json::from_value(json!({"segment": segment()})).unwrap();
        std::thread::spawn(move || {
            let beat = |until_ns| {
                TraceLine::Beat(TraceBeat {
                    until_ns,
                    missed: 1_000_000,
                })
            };
            let told = [beat(0), segment]
                .into_iter()
                .chain(std::iter::repeat_with(|| beat(u64::MAX)));
            for line in told {
                if sender.blocking_send(line).is_err() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        let start = TraceStart {
            node: "n1".to_owned(),
            members: ["n1", "n2"].map(str::to_owned).to_vec(),
        };
        Ok(TraceFeed { start, lines })
    }
}

/// A SYN that n1 drops.
fn segment() -> Value {
    json!({
        "time_us": 1, "monotonic_ns": 1, "node": "n1", "program": "front_ingress",
        "verdict": "lease_expired", "dropped": true, "service": "web",
        "client": "[2001:db8::1]:4000", "vip": "[2001:db8::100]:80", "from": "client", "to": "n1",
        "peer": null, "client_isn": null, "server_isn": null,
        "before": {
            "source": "[2001:db8::1]:4000", "destination": "[2001:db8::100]:80", "flags": "S",
            "seq": 7, "ack": 0, "window": 1, "urgent": 0, "len": 0, "request_end": false,
            "mss": 1440, "scale": 7, "sack_permitted": true, "sack": [], "timestamps": [1, 0],
            "dts_option": false, "ip_option": null,
        },
        "after": null,
    })
}

/// A node's directory with its configuration and, behind its socket, [`Sample`].
struct Node {
    directory: tempfile::TempDir,
    _daemon: Option<(Claim, tokio::runtime::Runtime)>,
}

impl Node {
    fn without_daemon() -> Self {
        let directory = open_directory();
        let example = fs::read_to_string(EXAMPLE).unwrap();
        let run_dir = format!("\n[node]\nrun_dir = \"{}\"\n", directory.path().display());
        let config = example.replacen("\n[node]\n", &run_dir, 1);
        fs::write(directory.path().join("dts.toml"), config).unwrap();
        Self {
            directory,
            _daemon: None,
        }
    }

    fn start() -> Self {
        let node = Self::without_daemon();
        let claim = Claim::take(&node.socket()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = {
            let _entered = runtime.enter();
            claim.listen().unwrap()
        };
        runtime.spawn(serve(listener, Arc::new(Sample)));
        Self {
            _daemon: Some((claim, runtime)),
            ..node
        }
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("dts.toml")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("demo-n1.sock")
    }

    /// Runs a command about this node.
    fn dts(&self, arguments: &[&str]) -> Ran {
        let config = self.config();
        dts(&[arguments, &["--config", text(&config)]].concat())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.dts(&[arguments, &["--json"]].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        serde_json::from_str(&ran.stdout).unwrap()
    }
}

#[test]
fn answers_are_shown_without_styles_in_a_pipe() {
    let node = Node::start();
    let status = node.dts(&["status"]);
    assert_eq!((status.code, status.stderr.as_str()), (0, ""));
    assert!(
        status
            .stdout
            .starts_with("Node       n1 of cluster demo, 198.18.1.11\n")
    );
    assert!(status.stdout.contains("lapsed"), "{}", status.stdout);
    assert!(!status.stdout.contains('\x1b'), "{}", status.stdout);

    let ring = node.dts(&["ring", "--flow", "198.18.0.1:4000"]);
    let owner = "The flow from 198.18.0.1:4000 is at 8aede55bcb71aafb: it belongs to n2";
    assert!(ring.stdout.contains(owner), "{}", ring.stdout);

    let stats = node.dts(&["stats"]);
    assert!(
        stats.stdout.contains("accepted   1,234"),
        "{}",
        stats.stdout
    );
}

#[test]
fn answers_are_given_as_json() {
    let node = Node::start();
    let status = node.json(&["status"]);
    assert_eq!(status["lease"], json!({"held": false, "remaining_ms": 0}));
    assert_eq!(
        (&status["pid"], &status["attach"]),
        (&4242.into(), &"clsact".into())
    );
    let ring = node.json(&["ring", "--key", "/a"]);
    assert_eq!(ring["owner"]["of"], json!({"key": "/a"}));
    let stats = node.json(&["stats"]);
    assert_eq!(
        (&stats["actions"]["other"], &stats["drops"]["not_owner"]),
        (&7.into(), &0.into())
    );
    assert_eq!(stats["inspector"], json!({"accepted": 1234}));
}

#[test]
fn a_trace_is_a_ladder_or_lines_of_json() {
    let node = Node::start();
    let text = node.dts(&["trace", "--count", "1"]);
    assert_eq!(text.code, 0);
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["ms", "client", "n1", "n2"]
    );
    assert!(
        lines[1].contains("... 1,000,000 segments not shown"),
        "{}",
        text.stdout
    );
    assert!(
        lines[2].starts_with("     0.000  │──SYN x───────────────╳│")
            && lines[2]
                .ends_with("[2001:db8::1]:4000     lease_expired: the daemon is away or hangs"),
        "{}",
        text.stdout
    );
    assert_eq!(lines.len(), 3);
    assert!(!text.stdout.contains('\x1b'));
    let said: Vec<&str> = text.stderr.lines().collect();
    assert_eq!(said[0], "Tracing n1; Ctrl-C ends it");
    assert!(
        said[1].starts_with("1 segments of 1 connections in "),
        "{}",
        text.stderr
    );
    assert!(
        said[1].ends_with(" s; 1,000,000 were not shown"),
        "{}",
        text.stderr
    );

    let told = node.dts(&["trace", "--json", "--seconds", "1"]).stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told, segment());
    let other = node.dts(&["trace", "--json", "--seconds", "1", "--node", "n2"]);
    assert_eq!((other.code, other.stdout.as_str()), (0, ""));
}

#[test]
fn a_socket_can_be_named_instead_of_a_configuration() {
    let node = Node::start();
    let socket = node.socket();
    assert_eq!(dts(&["status", "--socket", text(&socket)]).code, 0);
}

#[test]
fn a_refusal_is_shown() {
    let node = Node::start();
    let reload = node.dts(&["reload"]);
    assert_eq!(reload.code, 1);
    let expected = "error: the daemon says: dts.toml:3:1: error: no such key\n";
    assert_eq!(reload.stderr, expected);
    let trace = node.dts(&["trace", "--service", "x"]);
    let expected = "error: the daemon says: there is no service \"x\"\n";
    assert_eq!((trace.code, trace.stderr.as_str()), (1, expected));
    let connections = node.dts(&["connections", "--state", "direct", "--limit", "5"]);
    assert!(
        connections
            .stderr
            .contains("state: Some(Direct), limit: Some(5)"),
        "{}",
        connections.stderr
    );
}

#[test]
fn without_a_daemon_the_exit_code_is_3() {
    let node = Node::without_daemon();
    for command in ["status", "ring", "connections", "stats", "reload", "trace"] {
        let ran = node.dts(&[command]);
        assert_eq!((ran.code, ran.stdout.as_str()), (3, ""), "{command}");
        let expected = format!(
            "error: no daemon answers at {}: start it with `dts node`\n",
            node.socket().display()
        );
        assert_eq!(ran.stderr, expected);
    }
}

#[test]
fn who_may_not_ask_is_told() {
    let node = Node::start();
    let socket = node.socket();
    for command in ["status", "trace"] {
        let ran = dts_as_nobody(&[command, "--socket", text(&socket)]);
        assert_eq!(ran.code, 1);
        assert!(
            ran.stderr
                .contains("this user may not talk to the daemon: run as root"),
            "{}",
            ran.stderr
        );
    }
    // The directory is open: it is the socket that is not.
    let mode = fs::metadata(node.directory.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o005, 0o005);
}

#[test]
fn a_configuration_that_is_wrong_says_how_else_to_find_the_daemon() {
    let node = Node::start();
    fs::write(node.config(), "[cluster]\n").unwrap();
    let ran = node.dts(&["status"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("--socket"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("dts.toml:1:1: error: "),
        "{}",
        ran.stderr
    );
}
