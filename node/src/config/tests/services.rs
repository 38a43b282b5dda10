//! Services and their rules.

use super::*;

#[test]
fn a_way_of_handing_over_can_be_asked_for() {
    for (text, handover) in [
        ("auto", Handover::Auto),
        ("adopt", Handover::Adopt),
        ("splice", Handover::Splice),
    ] {
        let file = changed(
            "inspector_port = 8081",
            &format!("inspector_port = 8081\nhandover = \"{text}\""),
        );
        let (config, _) = parse(&file).unwrap();
        assert_eq!(config.services[0].handover, handover);
    }
}

#[test]
fn requests_need_not_be_read() {
    // The example's first service without its rules.
    let (before, after) = EXAMPLE.split_once("keep_local").unwrap();
    let plain = &after[after.find("[[service]]").unwrap()..];
    let file = |rest: &str| format!("{before}{rest}\n\n{plain}");
    let with = |rest: &str| file(&format!("protocol = {{ bytes = 1024 }}\n{rest}"));
    let (config, _) = parse(&with("default = { nodes = [\"n2\"] }")).unwrap();
    assert_eq!(config.services[0].protocol, Protocol::Bytes(1024));
    for (wrong, what) in [
        ("keep_local = [\"/a\"]", "has no paths or hosts"),
        (
            "rule = [{ path = \"/\", to = \"local\" }]",
            "has no paths or hosts",
        ),
        ("default = { hash = \"uri\" }", "has no URI"),
        ("undecided_bytes = 1023", "waits for more bytes than"),
    ] {
        let found = errors(&with(wrong));
        assert!(found.len() == 1 && found[0].contains(what), "{found:?}");
    }
    for wrong in [
        "{ bytes = 0 }",
        "{ bytes = 1025 }",
        "{}",
        "{ words = 4 }",
        "4",
        "\"ftp\"",
    ] {
        let found = errors(&file(&format!("protocol = {wrong}")));
        assert!(
            found.len() == 1 && found[0].contains("protocol"),
            "{found:?}"
        );
    }
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
fn a_service_may_have_several_addresses() {
    let text = changed(
        "vip = \"198.18.0.100\"",
        "vip = [\"198.18.0.100\", \"2001:db8::100\"]",
    );
    let (config, warnings) = parse(&text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let [v4, v6, plain] = &config.services[..] else {
        panic!("{:?}", config.services)
    };
    assert_eq!([&*v4.name, &v6.name, &plain.name], ["web", "web", "plain"]);
    assert_eq!(v6.vip.to_string(), "2001:db8::100");
    assert_ne!(v4.id(), v6.id());
    let moved = Service {
        vip: v4.vip,
        ..v6.clone()
    };
    assert_eq!(&moved, v4, "all else is the same");

    for (vips, error) in [
        (
            "[]",
            "20:7: error: `vip` is empty\n  help: name at least one address",
        ),
        (
            "[\"198.18.0.100\", \"198.18.0.100\"]",
            "20:24: error: `vip` has 198.18.0.100 twice\n  help: name each address once",
        ),
        (
            "[\"198.18.0.101\", 7]",
            "20:24: error: `vip` must be a string, not a whole number\n  help: write it in double \
             quotes",
        ),
        (
            "[\"2001:db8::100\", \"198.18.1.12\"]",
            "20:25: error: `vip` is 198.18.1.12, the address of node \"n2\"\n  help: the VIP is an \
             address of its own, in the clients' network",
        ),
    ] {
        let text = changed("vip = \"198.18.0.100\"", &format!("vip = {vips}"));
        assert_only_error(&text, error);
    }
}

#[test]
fn what_is_wrong_at_all_addresses_is_said_once() {
    let both = "vip = [\"198.18.0.100\", \"2001:db8::100\"]";
    let text = EXAMPLE.replace("vip = \"198.18.0.100\"", both);
    assert_only_error(
        &text.replace("inspector_port = 8081", "inspector_port = 80"),
        "23:18: error: `inspector_port` is 80, the service's own `port`\n  help: choose a port of \
         the VIP that nothing else uses, such as 8081",
    );
    assert_only_error(
        &text.replace("inspector_port = 8081", "inspector_port = 5000"),
        "23:18: error: `inspector_port` is 5000, used by \"plain\" in line 34\n  help: choose a \
         port of the VIP that nothing else uses, such as 8081",
    );
    // At the second address only.
    let text = changed("vip = \"198.18.0.100\"", both)
        .replace("inspector_port = 8081", "inspector_port = 5000")
        .replace(
            "name = \"plain\"\nvip = \"198.18.0.100\"",
            "name = \"plain\"\nvip = \"2001:db8::100\"",
        );
    assert_eq!(errors(&text).len(), 1, "{:?}", errors(&text));
    // One name for two tables is another matter.
    let text =
        changed("vip = \"198.18.0.100\"", both).replace("name = \"plain\"", "name = \"web\"");
    assert_only_error(
        &text,
        "35:8: error: a second service has the name \"web\"\n  help: the first is in line 18: \
         rename one",
    );
    let (_, warnings) = parse(
        &changed("vip = \"198.18.0.100\"", both)
            .replace("mode = \"l7\"", "mode = \"l7\"\nhandover = \"splice\""),
    )
    .unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
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
    const HELP: &str = "write \"local\", { nodes = [\"n1\"] } or { hash = \"uri\" } (of lines { hash = \"line\" })";
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
            "write \"uri\", or \"line\" with protocol = \"line\"",
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
         `host` (of lines a `line` or `line_prefix`), or write the target as the service's `default`",
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
fn rules_that_persistent_connections_bypass_are_a_warning() {
    let (_, warnings) = parse(EXAMPLE).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    for key in ["handover = \"splice\"", "each_request = false"] {
        let file = changed(
            "inspector_port = 8081",
            &format!("inspector_port = 8081\n{key}"),
        );
        let (_, warnings) = parse(&file).unwrap();
        let [warning] = &warnings[..] else {
            panic!("{key}: {warnings:?}")
        };
        assert_eq!(
            warning.to_string(),
            "/etc/dts/dts.toml:18:1: warning: on a persistent connection to \"web\" the rules see the \
             first request only: later ones go to the same node\n  help: have the servers close the \
             connection after each response, for instance with `keepalive_timeout 0;` in nginx"
        );
    }
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
    let (_, warnings) = parse(&reached).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
}

/// The example with a process as the inspector of its first service, and no rules.
fn with_process(more: &str) -> String {
    let end = EXAMPLE.find("keep_local").unwrap();
    format!("{}inspector = \"process\"\n{more}", &EXAMPLE[..end])
}

#[test]
fn a_process_may_inspect() {
    let (config, warnings) = parse(&with_process("")).unwrap();
    let web = &config.services[0];
    assert_eq!(web.process, Some(ProcessSocket::default()));
    let path = config.inspector_socket(web).unwrap();
    assert_eq!(path, Path::new("/run/dts/web.inspector.sock"));
    assert!(
        warnings[0]
            .message
            .contains("the inspector sees the first request only")
    );
    assert_eq!(warnings.len(), 1);

    let more = "inspector_socket = \"/run/x.sock\"\ninspector_user = \"www-data\"\n\
                inspector_group = \"33\"\n";
    let (config, _) = parse(&with_process(more)).unwrap();
    let expected = ProcessSocket {
        path: Some("/run/x.sock".into()),
        user: Some("www-data".to_owned()),
        group: Some("33".to_owned()),
    };
    assert_eq!(config.services[0].process, Some(expected));

    // One process for all of a service's addresses.
    let both =
        with_process("").replace("\"198.18.0.100\"", "[\"198.18.0.100\", \"2001:db8::100\"]");
    let (config, warnings) = parse(&both).unwrap();
    let sockets = config.services.iter().map(|s| config.inspector_socket(s));
    assert_eq!(
        sockets.collect::<Vec<_>>(),
        [Some(path.clone()), Some(path)]
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");

    let (config, _) = parse(&changed("keep_local", "inspector = \"rules\"\nkeep_local")).unwrap();
    assert_eq!(config.services[0].process, None);
    assert_eq!(config.inspector_socket(&config.services[0]), None);
}

#[test]
fn a_process_leaves_nothing_to_rules() {
    for (more, expected) in [
        (
            "keep_local = [\"/a\"]",
            "has no use for `rule` and `keep_local`",
        ),
        (
            "rule = [{ path = \"/a\", to = \"local\" }]",
            "has no use for `rule` and `keep_local`",
        ),
        ("protocol = { bytes = 4 }", "reads any protocol by itself"),
        (
            "default = { hash = \"uri\" }",
            "gives no URI and no line that the default target could be chosen by",
        ),
    ] {
        let found = errors(&with_process(more));
        let expected = format!("24:13: error: an `inspector` that is a process {expected}");
        assert!(
            found.len() == 1 && found[0].starts_with(&expected),
            "{more}: {found:?}"
        );
    }
}

#[test]
fn the_socket_of_a_process_needs_a_process_and_a_place_of_its_own() {
    for key in ["inspector_socket", "inspector_user", "inspector_group"] {
        let text = changed("keep_local", &format!("{key} = \"/x\"\nkeep_local"));
        let found = errors(&text);
        assert!(!found.is_empty() && found[0].contains(key), "{found:?}");
        let text = changed("mode = \"l4\"", &format!("mode = \"l4\"\n{key} = \"/x\""));
        let found = errors(&text);
        let nothing = format!("`{key}` means nothing in a service with `mode = \"l4\"`");
        assert!(found.len() == 1 && found[0].contains(&nothing), "{found:?}");
    }
    let text = changed("keep_local", "inspector_group = \"www-data\"\nkeep_local");
    assert_only_error(
        &text,
        "24:19: error: `inspector_group` means nothing where no process inspects\n  help: remove it, \
         or write `inspector = \"process\"`",
    );
    let second = "\n[[service]]\nname = \"b\"\nvip = \"198.18.0.100\"\nport = 81\nmode = \"l7\"\n\
                  inspector_port = 8082\ninspector = \"process\"\n";
    for (path, by) in [
        ("/run/dts/web.inspector.sock", "\"web\" in line 18 has it"),
        ("/run/dts/demo-n1.sock", "it is the daemon's own"),
    ] {
        let text = with_process(second) + &format!("inspector_socket = \"{path}\"\n");
        let found = errors(&text);
        let expected = format!("the inspector's socket {path} is taken: {by}");
        assert!(
            found.len() == 1 && found[0].contains(&expected),
            "{found:?}"
        );
    }
    let long = with_process(&format!("inspector_socket = \"/{}\"\n", "x".repeat(107)));
    let found = errors(&long);
    assert!(
        found.len() == 1 && found[0].contains("longer than 107 bytes"),
        "{found:?}"
    );
    let account = with_process("inspector_user = \"a b\"");
    let found = errors(&account);
    assert!(found[0].contains("can't be a user or group"), "{found:?}");
}
