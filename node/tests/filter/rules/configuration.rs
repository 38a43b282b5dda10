//! Configurations with random services.

use std::fmt::Write;

pub(super) const NODES: u8 = 6;
pub(super) const SERVICES: usize = 10;
pub(super) const FIRST_PORT: u16 = 9000;

/// Parts of paths, in rules and in requests; some of them only look alike.
pub(super) const PARTS: [&str; 14] = [
    "a", "b", "A", "ab", "img", "img2", "static", "%61", "..", "", "x.html", "a;b", "~u", "a:b@c",
];

/// Hosts, in rules and in requests. The last one is as long as the filter's keys, the one before longer. A dot alone is an
/// empty name.
pub(super) const HOSTS: [&str; 10] = [
    ".",
    "a.example",
    "b.example",
    "example",
    "www.a.example",
    "A.Example",
    "198.18.0.100",
    "under_score.example",
    "a-host-whose-name-is-longer-than-any-key-of-the-filter-s.example",
    "a-host-whose-name-is-as-long-as-a-key-of-the-filters.example",
];

/// The back address of a node. The first one is this node.
pub(super) fn address(node: u8) -> [u8; 4] {
    [198, 18, 1, 11 + node]
}

/// A path of some parts.
pub(super) fn any_path(rng: &mut fastrand::Rng) -> String {
    let mut path = String::new();
    for _ in 0..rng.u8(1..4) {
        path.push('/');
        path.push_str(rng.choice(PARTS).expect("some"));
    }
    path
}

/// A file with random services.
///
/// Most of them can be the filter's. Of the last three one has a path that is too long for it, one a host, and one lets
/// clients send less than the filter would read.
pub(super) fn any_configuration(rng: &mut fastrand::Rng) -> String {
    let mut text = String::from(
        "cluster = { name = \"demo\", secret_file = \"/etc/dts/secret\" }\n\
         node = { id = \"n0\", front = \"eth0\", back = \"eth1\", address = \"198.18.1.11\" }\n\
         membership.members = [\n",
    );
    for node in 0..NODES {
        let last = address(node)[3];
        writeln!(
            text,
            "  {{ id = \"n{node}\", address = \"198.18.1.{last}\" }},"
        )
        .expect("memory");
    }
    text.push_str("]\n");
    for service in 0..SERVICES {
        any_service(rng, service, &mut text);
    }
    text
}

fn any_service(rng: &mut fastrand::Rng, service: usize, text: &mut String) {
    let (port, inspector) = (
        FIRST_PORT as usize + service,
        FIRST_PORT as usize + 500 + service,
    );
    let bytes = if service == SERVICES - 1 {
        1024
    } else {
        32_768
    };
    write!(
        text,
        "[[service]]\nname = \"s{service}\"\nvip = \"198.18.0.100\"\nport = {port}\n\
         mode = \"l7\"\nhandover = \"adopt\"\ninspector_port = {inspector}\n\
         undecided_bytes = {bytes}\non_unreachable = \"reset\"\ndefault = {}\n",
        any_target(rng)
    )
    .expect("memory");
    if rng.u8(..4) == 0 {
        writeln!(text, "keep_local = [\"{}\"]", any_path(rng)).expect("memory");
    }
    // Without hosts the filter reads the request line only.
    let hosts = service.is_multiple_of(2);
    for _ in 0..rng.u8(..8) {
        let with_host = hosts && rng.bool();
        text.push_str("[[service.rule]]\n");
        if with_host {
            let longest = HOSTS.len() - 2;
            let host = match rng.usize(..HOSTS.len()) {
                n if n == longest && service != SERVICES - 2 => HOSTS[1],
                n => HOSTS[n],
            };
            writeln!(text, "host = \"{host}\"").expect("memory");
        }
        if !with_host || rng.bool() {
            let key = ["path", "path_prefix"][rng.usize(..2)];
            let mut path = any_path(rng);
            if service == SERVICES - 3 && rng.u8(..8) == 0 {
                path.push_str(&"/long".repeat(25));
            }
            writeln!(text, "{key} = \"{path}\"").expect("memory");
        }
        writeln!(text, "to = {}", any_target(rng)).expect("memory");
    }
}

fn any_target(rng: &mut fastrand::Rng) -> String {
    match rng.u8(..6) {
        0 => "\"local\"".to_owned(),
        1 | 2 => "{ hash = \"uri\" }".to_owned(),
        _ => {
            let mut nodes: Vec<_> = (0..NODES).map(|node| format!("\"n{node}\"")).collect();
            rng.shuffle(&mut nodes);
            nodes.truncate(rng.usize(1..=4));
            format!("{{ nodes = [{}] }}", nodes.join(", "))
        }
    }
}
