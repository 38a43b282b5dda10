//! Starting and ending daemons, with a stand-in that does no more than answer at its socket.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;

use dts_lab::{Family, Lab, LabError, LabGuard, Signal};

use crate::support::{assert_gone, spec, tests};

tests![
    daemons_are_ready_when_the_lab_is,
    a_daemon_can_be_stopped_and_killed,
    a_daemon_that_fails_is_reported,
    the_configuration_is_complete,
    nodes_may_know_each_other_by_ipv6,
];

/// What `dts node --config FILE` does here.
pub(crate) fn play_daemon(config: &str) -> ExitCode {
    let config = fs::read_to_string(config).unwrap();
    let value = |key: &str| {
        let line = config
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key} = ")));
        line.unwrap_or_else(|| panic!("no `{key}` in the configuration"))
            .trim_matches('"')
            .to_owned()
    };
    if config.contains("fail = true") {
        eprintln!("error: told to fail");
        return ExitCode::FAILURE;
    }
    fs::create_dir_all(value("pin_dir")).unwrap();
    let socket = format!(
        "{}/{}-{}.sock",
        value("run_dir"),
        value("name"),
        value("id")
    );
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(socket).unwrap();
    println!("listening");
    listener.incoming().for_each(drop);
    ExitCode::SUCCESS
}

fn with_daemons(nodes: u8) -> LabGuard {
    let mut spec = spec(nodes);
    spec.cluster.daemons = true;
    LabGuard::up(spec).unwrap()
}

fn daemons_are_ready_when_the_lab_is() {
    let lab = with_daemons(2);
    for node in 1..=2 {
        assert!(UnixStream::connect(lab.daemon_socket(node)).is_ok());
        assert!(lab.daemon(node).is_some());
        assert!(
            fs::read_to_string(lab.daemon_log(node))
                .unwrap()
                .contains("listening")
        );
    }
    let name = lab.spec().name.clone();
    drop(lab);
    assert_gone(&name);
}

fn a_daemon_can_be_stopped_and_killed() {
    let lab = with_daemons(2);
    lab.stop_daemon(1, Signal::TERM).unwrap();
    assert!(lab.daemon(1).is_none() && lab.daemon(2).is_some());
    assert!(UnixStream::connect(lab.daemon_socket(1)).is_err());
    lab.stop_daemon(1, Signal::TERM).unwrap();
    lab.start_daemon(1).unwrap();
    let first = lab.daemon(1).unwrap().pid();
    lab.start_daemon(1).unwrap();
    assert_eq!(lab.daemon(1).unwrap().pid(), first, "it was running");
    lab.kill_daemon(1).unwrap();
    assert!(lab.daemon(1).is_none());
    // By another handle, as another process would.
    let other = Lab::open(&lab.spec().name).unwrap();
    other.start_daemon(1).unwrap();
    assert!(lab.daemon(1).is_some());
}

fn a_daemon_that_fails_is_reported() {
    let mut spec = spec(2);
    spec.cluster.daemons = true;
    spec.nodes[1].node_toml = "fail = true".into();
    let name = spec.name.clone();
    let error = Lab::up(spec).unwrap_err();
    assert!(matches!(error, LabError::Died { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("the daemon of n2") && text.contains("error: told to fail"),
        "{text}"
    );
    assert_gone(&name);
}

fn nodes_may_know_each_other_by_ipv6() {
    let lab = LabGuard::up(spec(2).with_ipv6(Family::V6)).unwrap();
    let text = fs::read_to_string(lab.daemon_config(2)).unwrap();
    let config: toml::Table = text.parse().unwrap();
    let node = &config["node"];
    assert_eq!(node["address"].as_str(), Some("2001:db8:1::12"));
    assert_eq!(node["self_address"].as_str(), Some("2001:db8:1::254"));
    let members = config["membership"]["members"].as_array().unwrap();
    assert_eq!(members[0]["address"].as_str(), Some("2001:db8:1::11"));
    let vips = config["service"][0]["vip"].as_array().unwrap();
    let vips: Vec<_> = vips.iter().filter_map(|vip| vip.as_str()).collect();
    assert_eq!(vips, ["198.18.0.100", "2001:db8::100"]);
}

fn the_configuration_is_complete() {
    let mut spec = spec(2);
    spec.nodes[1].inspect = Some(false);
    spec.cluster.cluster_toml = "handover_port = 7500".into();
    spec.cluster.ring_toml = "hash = \"md5\"".into();
    let lab = LabGuard::up(spec).unwrap();
    let text = fs::read_to_string(lab.daemon_config(2)).unwrap();
    let config: toml::Table = text.parse().unwrap();
    assert_eq!(config["cluster"]["handover_port"].as_integer(), Some(7500));
    assert_eq!(config["ring"]["hash"].as_str(), Some("md5"));
    let node = &config["node"];
    assert_eq!(
        (node["id"].as_str(), node["inspect"].as_bool()),
        (Some("n2"), Some(false))
    );
    assert_eq!(node["address"].as_str(), Some("198.18.1.12"));
    assert_eq!(node["self_address"].as_str(), Some("198.18.1.254"));
    let members = config["membership"]["members"].as_array().unwrap();
    assert_eq!(
        (members.len(), members[1]["inspect"].as_bool()),
        (2, Some(false))
    );
    assert_eq!(config["service"][0]["vip"].as_str(), Some("198.18.0.100"));
    let secret = fs::read_to_string(config["cluster"]["secret_file"].as_str().unwrap()).unwrap();
    assert_eq!(secret.trim().len(), 64);
}
