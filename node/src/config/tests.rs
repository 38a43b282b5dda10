//! Whole files: what they become, and what is said about them.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

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

#[test]
fn the_example_becomes_a_configuration() {
    let (config, _) = parse(EXAMPLE).unwrap();
    assert_eq!(config.cluster.handover_port, 7411);
    assert_eq!(config.cluster.secret_file, Path::new("/etc/dts/secret"));
    assert_eq!(config.node.self_address.to_string(), "169.254.68.84");
    assert_eq!(config.node.lease, Duration::from_secs(2));
    assert_eq!(config.node.connections, 262_144);
    assert_eq!(config.node.workers, 1);
    assert!(config.node.inspect);
    assert_eq!(config.node.pin_dir, Path::new("/sys/fs/bpf/dts"));
    assert_eq!(config.socket_path(), Path::new("/run/dts/demo-n1.sock"));
    assert_eq!(
        config.ring,
        RingConfig {
            virtual_nodes: 63,
            hash: HashKind::SipHash
        }
    );
    assert_eq!(config.members.len(), 2);
    assert!(!config.members[1].inspect);
    assert_eq!(config.this_member().0, 0);

    let [web, plain] = &config.services[..] else {
        panic!("two services")
    };
    assert_eq!(web.line, 18);
    assert_eq!(
        (web.mode, web.handover, web.protocol),
        (Mode::L7, Handover::Auto, Protocol::Http)
    );
    assert_eq!(web.inspector_port, Some(8081));
    assert_eq!(web.keep_local, ["/downloads/dir0000000001/"]);
    assert_eq!(web.default, Target::Local);
    assert_eq!(
        (web.on_undecided, web.on_unreachable),
        (Fate::Default, Fate::Default)
    );
    assert_eq!(
        (web.undecided_time, web.undecided_bytes),
        (Duration::from_secs(10), 32_768)
    );
    let [downloads, images] = &web.rules[..] else {
        panic!("two rules")
    };
    assert_eq!((downloads.line, &downloads.to), (26, &Target::HashUri));
    assert_eq!(
        downloads.matcher.path_prefix.as_deref(),
        Some("/downloads/")
    );
    assert_eq!(images.matcher.host.as_deref(), Some("img.example.com"));
    assert_eq!(
        images.to,
        Target::Nodes(vec![NodeId::unchecked("n2"), NodeId::unchecked("n1")])
    );
    assert_eq!((plain.mode, plain.inspector_port), (Mode::L4, None));
}

#[test]
fn the_documented_file_is_right() {
    let documentation = include_str!("../../../docs/configuration.md");
    let (_, rest) = documentation.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let (config, _) = parse(example).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.services.len(), 1);
}

#[test]
fn every_key_can_be_given() {
    let text = changed("[cluster]", "[cluster]\nhandover_port = 7000")
        .replace(
            "back = \"eth1\"",
            "back = \"eth0\"\ninspect = true\nself_address = \"169.254.1.1\"\nlease_ms = 500\n\
             run_dir = \"/run/x\"\npin_dir = \"/sys/fs/bpf/x\"\nconnections = 1_024\nworkers = 2",
        )
        .replace(
            "[membership]",
            "[ring]\nvirtual_nodes = 31\nhash = \"md5\"\n\n[membership]",
        )
        .replace(
            "inspector_port = 8081",
            "inspector_port = 8081\nhandover = \"splice\"\nprotocol = \"http\"\n\
             default = { nodes = [\"n2\"] }\non_unreachable = \"reset\"\nundecided_ms = 100\n\
             undecided_bytes = 4096\non_undecided = \"reset\"",
        );
    let (config, _) = parse(&text).unwrap();
    assert_eq!(config.cluster.handover_port, 7000);
    assert_eq!(
        config.ring,
        RingConfig {
            virtual_nodes: 31,
            hash: HashKind::Md5
        }
    );
    assert_eq!(config.node.lease, Duration::from_millis(500));
    let web = &config.services[0];
    assert_eq!(web.handover, Handover::Splice);
    assert_eq!(web.default, Target::Nodes(vec![NodeId::unchecked("n2")]));
    assert_eq!(
        (web.on_unreachable, web.on_undecided),
        (Fate::Reset, Fate::Reset)
    );
    assert_eq!(
        (web.undecided_time, web.undecided_bytes),
        (Duration::from_millis(100), 4096)
    );
}

#[test]
fn a_relative_secret_file_is_beside_the_configuration() {
    let (config, _) = parse(&changed("\"/etc/dts/secret\"", "\"keys/secret\"")).unwrap();
    assert_eq!(
        config.cluster.secret_file,
        Path::new("/etc/dts/keys/secret")
    );
}

#[test]
fn all_errors_are_reported_in_the_order_of_the_file() {
    let text = changed("name = \"demo\"", "nane = \"demo\"")
        .replace("port = 80\n", "port = 0\n")
        .replace("mode = \"l4\"", "mode = \"l5\"")
        .replace("[\"n2\", \"n1\"]", "[\"n3\"]");
    assert_eq!(
        errors(&text),
        [
            "1:1: error: [cluster] has no `name`\n  help: add `name = \"web\"`",
            "2:1: error: [cluster] has no key `nane`\n  help: did you mean `name`?",
            "21:8: error: `port` is 0, out of range\n  help: write a whole number from 1 to 65535",
            "32:17: error: there is no node \"n3\"\n  help: did you mean \"n1\"?",
            "38:8: error: `mode` is \"l5\", unknown\n  help: write \"l4\" or \"l7\"",
        ]
    );
}

#[test]
fn the_listing_ends_with_a_count() {
    let text = changed("port = 80\n", "port = \"80\"\n");
    let message = parse(&text).unwrap_err().to_string();
    let mut lines = message.lines();
    assert_eq!(
        lines.next(),
        Some("/etc/dts/dts.toml:21:8: error: `port` must be a whole number, not a string")
    );
    assert_eq!(
        lines.next(),
        Some("  help: write a whole number from 1 to 65535")
    );
    assert_eq!(lines.next_back(), Some("1 error in the configuration"));
}

#[test]
fn what_is_not_toml_is_reported_with_its_place() {
    let found = errors("[cluster\nname = \"x\"\n[node]\nid = = 1\n");
    assert!(found.len() >= 2, "{found:?}");
    assert!(found[0].starts_with("1:"), "{found:?}");
    assert!(
        found.iter().any(|found| found.starts_with("4:")),
        "{found:?}"
    );
}

#[test]
fn an_empty_file_lists_what_it_lacks() {
    assert_eq!(
        errors(""),
        [
            "1:1: error: the file has no [cluster]\n  help: add a line `[cluster]`, and its keys \
             below",
            "1:1: error: the file has no [node]\n  help: add a line `[node]`, and its keys below",
            "1:1: error: the file has no [membership]\n  help: add a line `[membership]`, and its \
             keys below",
        ]
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/dts.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("/nonexistent/dts.toml: cannot read the configuration"),
        "{error}"
    );
}

#[test]
fn ipv6_is_for_later() {
    assert_only_error(
        &changed("vip = \"198.18.0.100\"", "vip = \"2001:db8::100\""),
        "20:7: error: `vip` is \"2001:db8::100\": IPv6 comes in a later version\n  help: use an \
         IPv4 address",
    );
}

#[test]
fn adopt_is_for_later() {
    assert_only_error(
        &changed(
            "inspector_port = 8081",
            "inspector_port = 8081\nhandover = \"adopt\"",
        ),
        "24:12: error: `handover` is \"adopt\", which this version does not have\n  help: write \
         `handover = \"auto\"`, or \"splice\"",
    );
}

#[test]
fn members_are_unique() {
    assert_only_error(
        &changed(
            "id = \"n2\", address = \"198.18.1.12\"",
            "id = \"n2\", address = \"198.18.1.11\"",
        ),
        "15:26: error: a second member has the address 198.18.1.11\n  help: the first is in line \
         14: give each its own back address",
    );
    let text = changed("[\"n2\", \"n1\"]", "[\"n1\"]").replace("id = \"n2\"", "id = \"n1\"");
    assert_only_error(
        &text,
        "15:10: error: a second member has the name \"n1\"\n  help: the first is in line 14: \
         rename one",
    );
}

#[test]
fn the_node_is_a_member() {
    assert_only_error(
        &changed("id = \"n1\"\nfront", "id = \"n11\"\nfront"),
        "6:6: error: this node, \"n11\", is no member\n  help: did you mean \"n1\"?",
    );
    assert_only_error(
        &changed("id = \"n1\"\nfront", "id = \"alpha\"\nfront"),
        "6:6: error: this node, \"alpha\", is no member\n  help: add { id = \"alpha\", address = \
         \"198.18.1.11\" } to the members",
    );
    assert_only_error(
        &changed(
            "eth1\"\naddress = \"198.18.1.11\"",
            "eth1\"\naddress = \"198.18.1.13\"",
        ),
        "9:11: error: this node's address is 198.18.1.13 here and 198.18.1.11 among the members\n  \
         help: write the same address in both places",
    );
}

#[test]
fn the_node_inspects_as_its_entry_says() {
    let text = changed("back = \"eth1\"", "back = \"eth1\"\ninspect = false");
    assert_only_error(
        &text,
        "9:11: error: `inspect` is false here and true in the entry of \"n1\"\n  help: write { id \
         = \"n1\", address = \"198.18.1.11\", inspect = false } among the members, in the files of \
         all nodes: they must build the same ring",
    );
    // Left out in [node], the entry decides.
    let text = changed("id = \"n1\"\nfront", "id = \"n2\"\nfront").replace(
        "eth1\"\naddress = \"198.18.1.11\"",
        "eth1\"\naddress = \"198.18.1.12\"",
    );
    assert!(!parse(&text).unwrap().0.node.inspect);
}

#[test]
fn somebody_has_to_inspect() {
    let text = changed("\"198.18.1.11\" }", "\"198.18.1.11\", inspect = false }");
    assert_only_error(
        &text,
        "14:10: error: no member has points on the ring: nobody would accept a connection\n  help: \
         remove `inspect = false` from at least one member",
    );
}

#[test]
fn the_ring_has_to_fit() {
    let members: Vec<_> = (0..5)
        .map(|i| format!("{{ id = \"m{i}\", address = \"198.18.1.{}\" }},", 100 + i))
        .collect();
    let text = changed("members = [", &format!("members = [ {}", members.concat()))
        .replace("[membership]", "[ring]\nvirtual_nodes = 4096\n[membership]");
    assert_only_error(
        &text,
        "11:1: error: the ring would have 28672 points, more than 16384\n  help: write \
         `virtual_nodes = 2340` or less",
    );
}

#[test]
fn services_do_not_collide() {
    assert_only_error(
        &changed("port = 5000", "port = 80"),
        "37:8: error: a second service is at 198.18.0.100 port 80\n  help: the first is \"web\" in \
         line 18: change one's `vip` or `port`",
    );
    assert_only_error(
        &changed("name = \"plain\"", "name = \"web\""),
        "35:8: error: a second service has the name \"web\"\n  help: the first is in line 18: \
         rename one",
    );
}

#[test]
fn services_with_the_same_number_are_named() {
    let vip = "198.18.0.100".parse().unwrap();
    let wanted = service_id(vip, 80);
    let twin = (81..=u16::MAX).find(|port| *port != 8081 && service_id(vip, *port) == wanted);
    // Whether VIP .100 has such a port is up to the hash; some VIP of this network does.
    let (vip, port) = match twin {
        Some(port) => ("198.18.0.100".to_owned(), port),
        None => (0..=255)
            .map(|last| format!("198.18.2.{last}"))
            .find_map(|vip| {
                let addr = vip.parse().unwrap();
                (1..=u16::MAX)
                    .find(|port| service_id(addr, *port) == wanted)
                    .map(|p| (vip, p))
            })
            .unwrap(),
    };
    let text = changed(
        "name = \"plain\"\nvip = \"198.18.0.100\"\nport = 5000",
        &format!("name = \"plain\"\nvip = \"{vip}\"\nport = {port}"),
    );
    assert_only_error(
        &text,
        &format!(
            "37:8: error: \"plain\" at {vip} port {port} has the same internal number as \"web\" \
             at 198.18.0.100 port 80 in line 18\n  help: a rare coincidence: give one of them \
             another port or VIP"
        ),
    );
}

#[test]
fn an_inspector_port_is_free() {
    for (port, by) in [
        (80, "the service's own `port`"),
        (7411, "the cluster's `handover_port`"),
        (5000, "used by \"plain\" in line 34"),
    ] {
        assert_only_error(
            &changed("inspector_port = 8081", &format!("inspector_port = {port}")),
            &format!(
                "23:18: error: `inspector_port` is {port}, {by}\n  help: choose a port of the VIP \
                 that nothing else uses, such as 8081"
            ),
        );
    }
    let second = "mode = \"l7\"\ninspector_port = 8081";
    assert_only_error(
        &changed("mode = \"l4\"", second),
        "39:18: error: `inspector_port` is 8081, used by \"web\" in line 18\n  help: choose a port \
         of the VIP that nothing else uses, such as 8081",
    );
    // Another VIP has ports of its own.
    let text = changed("mode = \"l4\"", second).replace(
        "name = \"plain\"\nvip = \"198.18.0.100\"",
        "name = \"plain\"\nvip = \"198.18.0.9\"",
    );
    assert_eq!(errors(&text), Vec::<String>::new());
}

#[test]
fn an_l7_service_needs_an_inspector_port() {
    assert_only_error(
        &changed("inspector_port = 8081\n", ""),
        "18:1: error: [[service]] has no `inspector_port`\n  help: add `inspector_port = 8081`",
    );
}

#[test]
fn an_l4_service_has_no_rules() {
    assert_only_error(
        &format!("{EXAMPLE}default = \"local\"\n"),
        "39:11: error: `default` means nothing in a service with `mode = \"l4\"`\n  help: remove \
         it: the ring alone decides; or write `mode = \"l7\"` to have requests inspected",
    );
}

#[test]
fn a_vip_is_not_the_address_of_a_node() {
    assert_only_error(
        &changed("vip = \"198.18.0.100\"", "vip = \"198.18.1.12\""),
        "20:7: error: `vip` is 198.18.1.12, the address of node \"n2\"\n  help: the VIP is an \
         address of its own, in the clients' network",
    );
}

#[test]
fn targets_name_nodes_that_exist() {
    assert_only_error(
        &changed("[\"n2\", \"n1\"]", "[\"n1\", \"n22\"]"),
        "32:23: error: there is no node \"n22\"\n  help: did you mean \"n2\"?",
    );
    assert_only_error(
        &changed("[\"n2\", \"n1\"]", "[\"gamma\"]"),
        "32:17: error: there is no node \"gamma\"\n  help: the members are: n1, n2",
    );
}

#[test]
fn a_target_is_one_of_three_things() {
    const HELP: &str = "write \"local\", { nodes = [\"n1\"] } or { hash = \"uri\" }";
    for (target, message, help) in [
        ("\"n2\"", "28:6: error: `to` is no target", HELP),
        ("7", "28:6: error: `to` is no target", HELP),
        (
            "{ }",
            "28:6: error: `to` must have either `nodes` or `hash`",
            HELP,
        ),
        (
            "{ nodes = [] }",
            "28:16: error: `nodes` is empty",
            "name at least one node",
        ),
        (
            "{ nodes = [\"n1\", \"n1\"] }",
            "28:23: error: `nodes` has \"n1\" twice",
            "name each node once",
        ),
        (
            "{ hash = \"url\" }",
            "28:15: error: `hash` is no known key",
            "write \"uri\"",
        ),
    ] {
        assert_only_error(
            &changed("to = { hash = \"uri\" }", &format!("to = {target}")),
            &format!("{message}\n  help: {help}"),
        );
    }
}

#[test]
fn a_rule_matches_something_but_not_everything() {
    assert_only_error(
        &changed("path_prefix = \"/downloads/\"\n", ""),
        "26:1: error: the rule matches every request\n  help: give it a `path`, `path_prefix` or \
         `host`, or write the target as the service's `default`",
    );
    assert_only_error(
        &changed(
            "path_prefix = \"/downloads/\"",
            "path_prefix = \"/a/\"\npath = \"/b\"",
        ),
        "26:1: error: the rule matches nothing: \"/b\" does not begin with \"/a/\"\n  help: leave \
         out `path_prefix`",
    );
}

#[test]
fn paths_and_hosts_are_written_as_they_are_compared() {
    for (from, to, what) in [
        (
            "\"/downloads/\"",
            "\"downloads/\"",
            "`path_prefix` is \"downloads/\", not a path",
        ),
        (
            "\"/downloads/\"",
            "\"/a?b\"",
            "`path_prefix` is \"/a?b\", more than a path",
        ),
        (
            "\"/downloads/\"",
            "\"/a b\"",
            "`path_prefix` is \"/a b\", which no client sends",
        ),
        (
            "\"IMG.example.com\"",
            "\"a:80\"",
            "`host` is \"a:80\", more than a host",
        ),
        (
            "\"IMG.example.com\"",
            "\"*.a\"",
            "`host` is \"*.a\", a pattern",
        ),
        ("\"IMG.example.com\"", "\"\"", "`host` is \"\", not a host"),
    ] {
        let found = errors(&changed(from, to));
        assert!(found.len() == 1 && found[0].contains(what), "{found:?}");
    }
}

#[test]
fn values_of_a_wrong_type_or_range_are_refused() {
    for (from, to) in [
        ("name = \"demo\"", "name = \"de/mo\""),
        ("front = \"eth0\"", "front = \"a-much-too-long-name\""),
        ("address = \"198.18.1.11\"", "address = \"198.18.1.11/24\""),
        ("vip = \"198.18.0.100\"", "vip = \"127.0.0.1\""),
        ("port = 80\n", "port = 65536\n"),
        ("port = 80\n", "port = 8.5\n"),
        ("[node]", "[node]\nlease_ms = 100"),
        ("[node]", "[node]\nrun_dir = \"run\""),
        ("[node]", "[node]\nworkers = 0"),
        ("inspect = false", "inspect = \"no\""),
        ("source = \"static\"", "source = \"gossip\""),
    ] {
        let found = errors(&changed(from, to));
        assert!(
            found.len() == 1 && found[0].contains("\n  help: "),
            "{to}: {found:?}"
        );
    }
}

#[test]
fn rules_that_persistent_connections_bypass_are_a_warning() {
    let (_, warnings) = parse(EXAMPLE).unwrap();
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}")
    };
    assert_eq!(
        warning.to_string(),
        "/etc/dts/dts.toml:18:1: warning: on a persistent connection to \"web\" the rules see the \
         first request only: later ones go to the same node\n  help: have the servers close the \
         connection after each response, for instance with `keepalive_timeout 0;` in nginx"
    );
}

#[test]
fn rules_that_are_never_reached_are_a_warning() {
    for rule in [
        "path_prefix = \"/downloads/big/\"",
        "path = \"/downloads/x\"",
        "path_prefix = \"/downloads/\"\nhost = \"a\"",
        "host = \"img.EXAMPLE.com\"\npath = \"/x\"",
        "path_prefix = \"/downloads/dir0000000001/x\"",
    ] {
        let text = changed(
            "[[service]]\nname = \"plain\"",
            &format!("[[service.rule]]\n{rule}\nto = \"local\"\n\n[[service]]\nname = \"plain\""),
        );
        let (_, warnings) = parse(&text).unwrap();
        let hidden = warnings.iter().filter(|warning| warning.line == 34);
        assert_eq!(hidden.count(), 1, "{rule}: {warnings:?}");
    }
    let reached = changed(
        "path_prefix = \"/downloads/\"",
        "path_prefix = \"/downloads/\"\nhost = \"a\"",
    );
    assert_eq!(
        parse(&reached).unwrap().1.len(),
        1,
        "the other warning only"
    );
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn a_damaged_file_never_panics(
        at in 0..EXAMPLE.len(),
        length in 0usize..20,
        with in "[ -~]{0,8}",
    ) {
        let end = (at + length).min(EXAMPLE.len());
        let text = [&EXAMPLE[..at], &with, &EXAMPLE[end..]].concat();
        if let Err(error) = parse(&text) {
            prop_assert!(error.to_string().contains(": error: "));
        }
    }
}
