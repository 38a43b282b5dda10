//! The commands and real daemons: a cluster of two nodes in network namespaces. As root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dts_lab::{ClusterSpec, LabGuard, LabSpec, Network, Place};
use serde_json::Value;

const DTS: &str = env!("CARGO_BIN_EXE_dts");

/// A cluster that is removed at the end of its test.
struct Cluster(LabGuard);

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Cluster {
    fn up(name: &str) -> Self {
        let mut spec = LabSpec::new(name, 2, DTS);
        // A connection per request, so that the counters don't depend on how curl uses them.
        spec.keepalive = false;
        spec.cluster.services_toml = Some(ClusterSpec::services(2, "splice"));
        Self(LabGuard::up(spec).unwrap())
    }

    /// Runs a command in a node, with a configuration file that may be another than the node's.
    fn dts_with(&self, node: u8, arguments: &[&str], config: &Path) -> Ran {
        let mut command = Command::new("timeout");
        command
            .arg("20")
            .arg(DTS)
            .args(arguments)
            .arg("--config")
            .arg(config);
        let output = self.0.exec(Place::Node(node), &command).unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn dts(&self, node: u8, arguments: &[&str]) -> Ran {
        self.dts_with(node, arguments, &self.0.daemon_config(node))
    }

    fn json(&self, node: u8, arguments: &[&str]) -> Value {
        let ran = self.dts(node, &[arguments, &["--json"]].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{arguments:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// The node's configuration file with something replaced everywhere, beside it.
    fn changed_config(&self, node: u8, from: &str, to: &str) -> PathBuf {
        let original = self.0.daemon_config(node);
        let text = fs::read_to_string(&original).unwrap();
        assert!(text.contains(from), "{from:?} is not in {text}");
        let path = original.with_file_name("changed.toml");
        fs::write(&path, text.replace(from, to)).unwrap();
        path
    }

    /// Fetches a path from the VIP, from this port of the client's.
    fn fetch(&self, path: &str, port: u16) -> String {
        let script = format!("curl -sf -m 10 --local-port {port} http://198.18.0.100{path}");
        self.0.sh(Place::Client(1), &script).unwrap()
    }
}

/// The only node number in `1..=2` that is not `node`.
fn other(node: u8) -> u8 {
    3 - node
}

fn node_number(id: &Value) -> u8 {
    id.as_str()
        .unwrap()
        .strip_prefix('n')
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn the_answers_are_those_of_the_traffic() {
    let cluster = Cluster::up("clilive");
    let client = Place::Client(1).address(Network::Front).unwrap();
    for port in 40_000..40_008 {
        let flow = format!("{client}:{port}");
        let ring = cluster.json(1, &["ring", "--flow", &flow]);
        assert_eq!(ring["owner"]["of"]["flow"], flow);
        let owner = node_number(&ring["owner"]["id"]);
        // Both nodes see the same ring.
        assert_eq!(cluster.json(2, &["ring", "--flow", &flow]), ring);
        let before = cluster.json(other(owner), &["stats"]);

        // With the prefix of the other node: what was asked here is served there.
        let path = format!("/n{}/whoami", other(owner));
        let script =
            format!("curl -s -o /dev/null -m 10 --local-port {port} http://198.18.0.100{path}");
        cluster.0.sh(Place::Client(1), &script).unwrap();

        let filter = ["connections", "--client", &client.to_string()];
        let find = |node, role: &str| {
            let list = cluster.json(node, &[&filter[..], &["--role", role]].concat());
            let connections = list["connections"].as_array().unwrap().clone();
            connections
                .into_iter()
                .find(|connection| connection["remote"] == flow)
        };
        let inspecting = find(owner, "inspecting").expect("the owner inspects it");
        assert_eq!(inspecting["service"], "web");
        let processing = find(other(owner), "processing").expect("the other node processes it");
        assert_eq!(processing["client_isn"], inspecting["client_isn"]);
        assert_eq!(processing["server_isn"], inspecting["server_isn"]);
        assert!(find(other(owner), "inspecting").is_none());

        let after = cluster.json(other(owner), &["stats"]);
        let grown = |map: &str, name: &str| {
            let count = |stats: &Value| stats[map][name].as_u64().unwrap();
            count(&after) - count(&before)
        };
        assert_eq!(grown("drops", "not_owner"), 1);
        assert_eq!(grown("actions", "handover_syn"), 1);
    }
    let done: u64 = [1, 2]
        .map(|node| {
            cluster.json(node, &["status"])["handovers"]["done"]
                .as_u64()
                .unwrap()
        })
        .iter()
        .sum();
    assert_eq!(done, 8);
}

#[test]
fn a_status_is_that_of_the_node() {
    let cluster = Cluster::up("clistatus");
    let status = cluster.json(2, &["status"]);
    assert_eq!(
        (&status["node"], &status["cluster"]),
        (&"n2".into(), &"clistatus".into())
    );
    assert_eq!(status["lease"]["held"], true);
    assert_eq!(status["services"][0]["listener_present"], true);
    let up = |status: &Value| {
        status["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .all(|i| i["up"] == true)
    };
    assert!(up(&status), "{status}");
    let comm = fs::read_to_string(format!("/proc/{}/comm", status["pid"])).unwrap();
    assert_eq!(comm, "dts\n");

    cluster
        .0
        .set_link(Place::Node(2), Network::Back, false)
        .unwrap();
    let status = cluster.json(2, &["status"]);
    assert!(!up(&status), "{status}");
}

#[test]
fn what_keeps_a_daemon_from_starting_is_said_with_a_remedy() {
    let cluster = Cluster::up("clierrors");
    let pid = cluster.json(1, &["status"])["pid"].clone();
    let config = cluster.0.daemon_config(1);
    let missing = cluster.0.dir().join("missing");
    let secret = cluster.0.dir().join("secret");
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    for command in ["node", "detach"] {
        let ran = cluster.dts_with(1, &[command], &config);
        assert_eq!(ran.code, 1);
        let expected = format!("already running (pid {pid}): stop that one first");
        assert!(ran.stderr.contains(&expected), "{}", ran.stderr);
    }
    cluster.0.kill_daemon(1).unwrap();
    for (from, to, expected) in [
        (
            "front = \"eth0\"",
            "front = \"eth7\"",
            "there is no interface eth7",
        ),
        (
            "= \"198.18.1.11\"",
            "= \"198.18.1.77\"",
            "address 198.18.1.77 is not on eth1 (back), which has 198.18.1.11",
        ),
        (
            &quoted(&secret),
            &quoted(&missing),
            "missing: cannot read the cluster's secret: No such file",
        ),
    ] {
        let changed = cluster.changed_config(1, from, to);
        let ran = cluster.dts_with(1, &["node", "--log", "off"], &changed);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{to}");
        assert!(ran.stderr.contains(expected), "{to}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    // What killed and failed daemons have left is no obstacle.
    cluster.0.start_daemon(1).unwrap();
    assert_eq!(cluster.json(1, &["status"])["lease"]["held"], true);
}

#[test]
fn a_reload_takes_a_right_configuration_and_leaves_a_wrong_one() {
    let cluster = Cluster::up("clireload");
    let config = cluster.0.daemon_config(1);
    let right = fs::read_to_string(&config).unwrap();
    let epoch = || cluster.json(1, &["status"])["ring_epoch"].as_u64().unwrap();
    let before = epoch();

    fs::write(&config, right.replace("port = 80\n", "port = 0\n")).unwrap();
    let socket = cluster.0.daemon_socket(1);
    let ran = Command::new(DTS)
        .args(["reload", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(1));
    let text = String::from_utf8(ran.stderr).unwrap();
    assert!(
        text.contains("the daemon says: ") && text.contains("`port` is 0"),
        "{text}"
    );
    fs::write(&config, &right).unwrap();
    assert_eq!(epoch(), before);

    let second =
        "\n[[service]]\nname = \"more\"\nvip = \"198.18.0.100\"\nport = 81\nmode = \"l4\"\n";
    fs::write(&config, right + second).unwrap();
    let ran = cluster.dts(1, &["reload"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.starts_with("service more added\n"),
        "{}",
        ran.stdout
    );
    let names: Vec<_> = cluster.json(1, &["status"])["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|service| service["name"].clone())
        .collect();
    assert_eq!(names, ["web", "more"]);
}

#[test]
fn detach_leaves_nothing_of_a_killed_daemon() {
    let cluster = Cluster::up("clidetach");
    let addresses = || {
        cluster
            .0
            .sh(Place::Node(1), "ip -br address show lo")
            .unwrap()
    };
    assert!(addresses().contains("198.18.0.100"));
    let whoami = cluster.fetch("/whoami", 40_000);
    assert!(whoami.starts_with('n'), "{whoami}");

    cluster.0.kill_daemon(1).unwrap();
    let ran = cluster.dts(1, &["status"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(
        addresses().contains("198.18.0.100"),
        "the data plane outlives its daemon"
    );

    let ran = cluster.dts(1, &["detach"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(!addresses().contains("198.18.0.100"));
    let pins = Path::new("/sys/fs/bpf/dts-lab/clidetach-n1");
    let left = fs::read_dir(pins).map_or(0, Iterator::count);
    assert_eq!(left, 0, "pins are left");
    // Again: there is nothing to do, and nothing to complain about.
    let again = cluster.dts(1, &["detach"]);
    assert_eq!((again.code, again.stderr.as_str()), (0, ""));
}
