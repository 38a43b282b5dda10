use std::path::Path;

use dts_core::ring::RingHash;
use proptest::prelude::*;

use super::*;
use crate::config::Config;

const HASH: RingHash = RingHash::SipHash { key: [7; 16] };

/// An inspector of a service with these lines after its fixed part.
fn inspector(lines: &str) -> HttpInspector {
    let text = format!(
        r#"
        cluster = {{ name = "demo", secret_file = "/etc/dts/secret" }}
        node = {{ id = "n1", front = "eth0", back = "eth1", address = "198.18.1.11" }}
        membership.members = [
          {{ id = "n1", address = "198.18.1.11" }}, {{ id = "n2", address = "198.18.1.12" }},
          {{ id = "n3", address = "198.18.1.13" }},
        ]
        [[service]]
        name = "web"
        vip = "198.18.0.100"
        port = 80
        mode = "l7"
        inspector_port = 8081
        {lines}"#
    );
    let (config, _) = Config::parse(Path::new("dts.toml"), &text).unwrap_or_else(|e| panic!("{e}"));
    HttpInspector::new(&config.services[0], HASH.into())
}

/// One rule of every kind; the names of the nodes say which rule decided.
fn example() -> HttpInspector {
    inspector(
        r#"
        default = { nodes = ["n1"] }
        keep_local = ["/downloads/dir0000000001/"]
        [[service.rule]]
        path = "/exact"
        to = { nodes = ["n2"] }
        [[service.rule]]
        path_prefix = "/downloads/"
        to = { hash = "uri" }
        [[service.rule]]
        host = "img.example.com"
        to = { nodes = ["n3"] }
        [[service.rule]]
        path_prefix = "/api/"
        host = "api.example.com"
        to = { nodes = ["n2", "n3"] }
        "#,
    )
}

fn inspect(inspector: &HttpInspector, bytes: impl AsRef<[u8]>) -> Decision {
    let connection = ConnectionInfo {
        remote: "198.18.0.200:40000".parse().unwrap(),
        local: "198.18.0.100:80".parse().unwrap(),
    };
    inspector.inspect(&connection, bytes.as_ref())
}

/// Where a request goes: the names of the nodes, `local`, or `key` with what was hashed left out.
fn goes(inspector: &HttpInspector, bytes: impl AsRef<[u8]>) -> String {
    match inspect(inspector, bytes) {
        Decision::NeedMore => "more".to_owned(),
        Decision::Reject(reason) => reason.to_string(),
        Decision::Handover(TargetChoice::Local) => "local".to_owned(),
        Decision::Handover(TargetChoice::Key(_)) => "key".to_owned(),
        Decision::Handover(TargetChoice::Nodes(set)) => set
            .nodes
            .iter()
            .map(|id| &**id)
            .collect::<Vec<_>>()
            .join("+"),
    }
}

#[test]
fn each_kind_of_rule_finds_its_requests() {
    let inspector = example();
    for (target, host, expected) in [
        ("/exact", "a", "n2"),
        ("/exact?query=1", "a", "n2"),
        ("/exact/", "a", "n1"),
        ("/Exact", "a", "n1"),
        ("/ex%61ct", "a", "n1"),
        ("/downloads/x", "a", "key"),
        ("/downloads", "a", "n1"),
        ("/downloads/dir0000000001/x", "a", "local"),
        ("/downloads/dir0000000010/x", "a", "key"),
        ("/x", "img.example.com", "n3"),
        ("/x", "IMG.Example.COM:8080", "n3"),
        ("/x", "img.example.com.", "n3"),
        ("/x", "www.img.example.com", "n1"),
        ("/api/x", "api.example.com", "n2+n3"),
        ("/api/x", "example.com", "n1"),
        ("/x", "api.example.com", "n1"),
        ("http://img.example.com/x", "other", "n3"),
        ("http://user@IMG.example.com:80?x", "other", "n3"),
        ("HTTPS://other/exact", "img.example.com", "n2"),
        ("*", "a", "n1"),
        ("img.example.com:443", "a", "n1"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(goes(&inspector, request), expected, "{target} at {host}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let inspector = example();
    let request = "GET /exact HTTP/1.1\r\nHost: img.example.com\r\n\r\n";
    assert_eq!(goes(&inspector, request), "n2");
}

#[test]
fn without_a_host_no_rule_for_one_matches() {
    assert_eq!(goes(&example(), "GET /x HTTP/1.0\r\n\r\n"), "n1");
}

#[test]
fn the_request_line_is_enough_when_no_header_is_asked_for() {
    let inspector = example();
    assert_eq!(goes(&inspector, "GET /exact HTTP/1.1"), "more");
    assert_eq!(goes(&inspector, "GET /exact HTTP/1.1\r\n"), "n2");
    assert_eq!(goes(&inspector, "GET /downloads/x HTTP/1.1\r\nHo"), "key");
    assert_eq!(
        goes(&inspector, "GET http://img.example.com/x HTTP/1.1\r\n"),
        "n3"
    );
    assert_eq!(
        goes(&inspector, "GET /x HTTP/1.1\r\nHost: img.example.com\r\n"),
        "more"
    );
    assert_eq!(goes(&inspector, "\r\n\r\n"), "more");
    assert_eq!(goes(&inspector, "\r\nGET /exact HTTP/1.1\r\n"), "n2");
    assert_eq!(goes(&inspector, ""), "more");
}

#[test]
fn the_body_does_not_matter() {
    let mut request = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n".to_vec();
    request.extend([0, 0xff, b'\n', 0]);
    assert_eq!(goes(&example(), request), "n1");
}

#[test]
fn what_cannot_be_parsed_goes_to_the_default_at_once() {
    let inspector = example();
    let many: String = (0..=MAX_HEADERS).map(|i| format!("X-{i}: 1\r\n")).collect();
    for garbage in [
        "\x16\x03\x01\x02",
        "GET / HTTP/1.1 \r\n",
        "GET /exact\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /x HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: img.example.com\r\nHost: b\r\n\r\n",
        &format!("GET /x HTTP/1.1\r\nHost: img.example.com\r\n{many}\r\n"),
    ] {
        assert_eq!(goes(&inspector, garbage), "n1", "{garbage:?}");
    }
}

#[test]
fn what_cannot_be_parsed_has_the_configured_fate_and_is_counted() {
    let inspector = inspector("on_undecided = \"reset\"");
    for garbage in ["\x16\x03\x01\x02", "\0", "GET /exact\r\n"] {
        assert_eq!(goes(&inspector, garbage), Reason::Unreadable.to_string());
    }
    assert_eq!(goes(&inspector, "GET /x HTTP/1.1\r\n"), "local");
    assert_eq!(inspector.unreadable(), 3);
}

#[test]
fn a_key_is_the_target_in_origin_form() {
    let inspector = inspector("default = { hash = \"uri\" }");
    let key = |target: &str| match inspect(&inspector, format!("GET {target} HTTP/1.1\r\n")) {
        Decision::Handover(TargetChoice::Key(key)) => key,
        other => panic!("{target}: {other:?}"),
    };
    assert_eq!(key("/a/b?c=d"), key_hash(&HASH.into(), b"/a/b?c=d"));
    assert_eq!(key("http://host:80/a/b?c=d"), key("/a/b?c=d"));
    assert_eq!(key("http://host"), key("/"));
    assert_eq!(key("http://host?c=d"), key("/?c=d"));
    assert_ne!(key("/a/b?c=d"), key("/a/b"));
    assert_ne!(key("/a"), key("/A"));
}

#[test]
fn a_request_without_uri_that_would_be_hashed_stays_here() {
    let inspector = inspector("default = { hash = \"uri\" }");
    assert_eq!(goes(&inspector, "\0"), "local");
}

#[test]
fn a_head_over_the_limit_is_undecided_and_has_the_configured_fate() {
    let head = format!(
        "GET /x HTTP/1.1\r\nX: {}\r\nHost: a\r\n\r\n",
        "x".repeat(100)
    );
    let rule = "[[service.rule]]\nhost = \"a\"\nto = { nodes = [\"n2\"] }";
    let limited = |fate: &str| inspector(&format!("undecided_bytes = 64\n{fate}\n{rule}"));
    let to_default = limited("default = { nodes = [\"n3\"] }");
    assert_eq!(goes(&to_default, &head), "more");
    let fate = to_default.overdue(Reason::TooLong);
    let expected = Decision::Handover(to_default.default_choice());
    assert_eq!(fate, expected);
    let to_reset = limited("on_undecided = \"reset\"");
    assert_eq!(goes(&to_reset, &head), "more");
    assert_eq!(
        to_reset.overdue(Reason::TooSlow),
        Decision::Reject(Reason::TooSlow)
    );
    // Decided within the limit, the rest may be as long as it likes.
    let short = format!("GET /x HTTP/1.1\r\nHost: a\r\n\r\n{}", "x".repeat(100));
    assert_eq!(goes(&to_reset, short), "n2");
}

/// Requests, some of them damaged, made of parts that rules look at.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let target = prop_oneof![
        Just("/exact".to_owned()),
        Just("/downloads/dir0000000001/x".to_owned()),
        Just("http://api.example.com/api/x".to_owned()),
        "/(api|downloads|x)/[a-z%?#/]{0,8}",
        "[!-~]{1,12}",
    ];
    let header = prop_oneof![
        "(?i:host): ?(img|api)\\.example\\.com(:80)?",
        "[a-zA-Z]{1,5}:[ -~]{0,10}",
        "[ -~]{0,6}",
    ];
    let line_end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n")];
    let version =
        prop_oneof![9 => Just("HTTP/1.1"), 1 => "HTTP/[0-9].[0-9]".prop_map(|_| "HTTP/1.0")];
    (
        target,
        version,
        prop::collection::vec(header, 0..5),
        line_end,
        any::<Option<(u16, u8)>>(),
    )
        .prop_map(|(target, version, headers, end, damage)| {
            let mut request = format!("GET {target} {version}{end}");
            for header in headers {
                request += &header;
                request += end;
            }
            let mut request = (request + end).into_bytes();
            if let Some((at, byte)) = damage {
                let at = usize::from(at) % request.len();
                request[at] = byte;
            }
            request
        })
}

/// Every prefix decides nothing, or what the whole decides.
fn decides_alike(inspector: &HttpInspector, bytes: &[u8]) -> Result<(), TestCaseError> {
    let whole = inspect(inspector, bytes);
    for end in 0..bytes.len() {
        let part = inspect(inspector, &bytes[..end]);
        prop_assert!(
            part == Decision::NeedMore || part == whole,
            "{part:?} after {end} bytes, {whole:?} after all"
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_decision_does_not_depend_on_the_segments(request in request()) {
        decides_alike(&example(), &request)?;
    }

    #[test]
    fn nor_with_a_limit(request in request()) {
        let rule = "[[service.rule]]\nhost = \"img.example.com\"\nto = { nodes = [\"n2\"] }";
        decides_alike(&inspector(&format!("undecided_bytes = 64\n{rule}")), &request)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        decides_alike(&example(), &bytes)?;
    }

    #[test]
    fn whole_requests_are_always_decided(request in request()) {
        let mut request = request;
        request.extend(b"\r\n\r\n\r\n\r\n");
        prop_assert_ne!(inspect(&example(), &request), Decision::NeedMore);
    }
}
