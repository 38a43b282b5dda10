//! The file as a whole, and its values.

use super::*;

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
        (
            web.undecided_time,
            web.undecided_bytes,
            web.undecided_connections
        ),
        (Duration::from_secs(10), 32_768, 8192)
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
    let documentation = include_str!("../../../../docs/configuration.md");
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
             undecided_bytes = 4096\nundecided_connections = 77\non_undecided = \"reset\"",
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
        (
            web.undecided_time,
            web.undecided_bytes,
            web.undecided_connections
        ),
        (Duration::from_millis(100), 4096, 77)
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
