use std::path::Path;

use dts_core::ring::RingHash;
use proptest::prelude::*;

use super::*;
use crate::config::Config;

const HASH: RingHash = RingHash::SipHash { key: [7; 16] };

/// An inspector of a service with these lines after its fixed part.
fn inspector(lines: &str) -> LineInspector {
    let text = format!(
        r#"
        cluster = {{ name = "demo", secret_file = "/etc/dts/secret" }}
        node = {{ id = "n1", front = "eth0", back = "eth1", address = "198.18.1.11" }}
        membership.members = [
          {{ id = "n1", address = "198.18.1.11" }}, {{ id = "n2", address = "198.18.1.12" }},
        ]
        [[service]]
        name = "mail"
        vip = "198.18.0.100"
        port = 25
        mode = "l7"
        inspector_port = 2525
        protocol = "line"
        greeting = "220 mail.example ESMTP\r\n"
        {lines}"#
    );
    let (config, _) = Config::parse(Path::new("dts.toml"), &text).unwrap_or_else(|e| panic!("{e}"));
    LineInspector::new(&config.services[0], HASH.into())
}

fn example() -> LineInspector {
    inspector(
        r#"
        default = { hash = "line" }
        [[service.rule]]
        line = "NOOP"
        to = "local"
        [[service.rule]]
        line_prefix = "ehlo b."
        to = { nodes = ["n2"] }
        "#,
    )
}

fn inspect(inspector: &LineInspector, bytes: &[u8]) -> Decision {
    let connection = ConnectionInfo {
        remote: "198.18.0.200:40000".parse().unwrap(),
        local: "198.18.0.100:25".parse().unwrap(),
    };
    inspector.inspect(&connection, bytes)
}

#[test]
fn rules_compare_the_first_line() {
    let inspector = example();
    let goes = |bytes: &str| match inspect(&inspector, bytes.as_bytes()) {
        Decision::NeedMore => "more".to_owned(),
        Decision::Reject(reason) => reason.to_string(),
        Decision::Handover(TargetChoice::Local) => "local".to_owned(),
        Decision::Handover(TargetChoice::Key(place)) => place.to_string(),
        Decision::Handover(TargetChoice::Nodes(_)) => "n2".to_owned(),
    };
    let key = |line: &str| key_hash(&HASH.into(), line.as_bytes()).to_string();
    for (bytes, expected) in [
        ("", "more".to_owned()),
        ("NOOP", "more".to_owned()),
        ("NOOP\r", "more".to_owned()),
        ("NOOP\r\n", "local".to_owned()),
        ("noop\nQUIT\n", "local".to_owned()),
        ("NOOP \r\n", key("NOOP ")),
        ("EHLO b.example\r\nMAIL", "n2".to_owned()),
        ("EHLO B.\n", "n2".to_owned()),
        ("EHLO b\r\n", key("EHLO b")),
        ("\r\n", key("")),
        ("\n", key("")),
        ("USER a\r\r\n", key("USER a\r")),
        ("USER \0\r\n", key("USER \0")),
    ] {
        assert_eq!(goes(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn a_line_must_end_within_the_limit() {
    let inspector = inspector("undecided_bytes = 64\ndefault = \"local\"");
    for (spaces, decided) in [(63, true), (64, false), (1000, false)] {
        let line = [vec![b' '; spaces], b"\n".to_vec()].concat();
        let decision = inspect(&inspector, &line);
        assert_eq!(decision != Decision::NeedMore, decided, "{spaces}");
    }
}

proptest! {
    /// More bytes change nothing, and however a line is cut, it is decided when its end is there.
    #[test]
    fn decisions_do_not_depend_on_segments(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200)) {
        let inspector = example();
        let whole = inspect(&inspector, &bytes);
        for end in 0..bytes.len() {
            let decision = inspect(&inspector, &bytes[..end]);
            prop_assert_eq!(decision == Decision::NeedMore, !bytes[..end].contains(&b'\n'));
            if decision != Decision::NeedMore {
                prop_assert_eq!(&decision, &whole);
            }
        }
    }
}
