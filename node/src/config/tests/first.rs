//! Who speaks first.

use super::*;

/// A file with one service of mail; `lines` are the end of its table.
fn mail(port: u16, lines: &str) -> String {
    let (before, _) = EXAMPLE.split_once("[[service]]").unwrap();
    format!(
        "{before}[[service]]\nname = \"mail\"\nvip = \"198.18.0.100\"\nport = {port}\n\
         mode = \"l7\"\ninspector_port = 2525\n{lines}\n"
    )
}

const GREETED: &str = "protocol = \"line\"\ngreeting = \"220 mail ESMTP\\r\\n\"\n";

#[test]
fn a_greeting_is_given_literally_or_as_a_file() {
    let (config, warnings) = parse(&mail(25, GREETED)).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let bytes = |config: &Config| {
        config.services[0]
            .greeting
            .clone()
            .unwrap()
            .bytes()
            .to_vec()
    };
    assert_eq!(bytes(&config), b"220 mail ESMTP\r\n");

    let directory = tempfile::tempdir().unwrap();
    let text = mail(25, "protocol = \"line\"\ngreeting_file = \"hello\"");
    let with_file = |contents: &[u8]| {
        std::fs::write(directory.path().join("hello"), contents).unwrap();
        Config::parse(&directory.path().join("dts.toml"), &text)
    };
    let (config, _) = with_file(b"220 \xff\0\r\n").unwrap();
    assert_eq!(bytes(&config), b"220 \xff\0\r\n");
    assert!(with_file(&[b'\n'; Greeting::MAX]).is_ok());
    for (contents, what) in [
        (&b""[..], "the greeting is empty"),
        (
            &[b'\n'; 5000],
            "the greeting has 1025 bytes, more than 1024",
        ),
    ] {
        let error = with_file(contents).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_greeting_that_cannot_be_is_refused() {
    let pipe = tempfile::tempdir().unwrap();
    let pipe = pipe.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let pipe = format!("protocol = \"line\"\ngreeting_file = {pipe:?}");
    for (lines, what) in [
        (
            "greeting = \"220 mail\\r\\n\"",
            "a service of HTTP has no greeting: its clients speak first",
        ),
        (
            "protocol = \"line\"\ngreeting = \"\"",
            "the greeting is empty",
        ),
        (
            "protocol = \"line\"\ngreeting = 220",
            "`greeting` must be a string, not a whole number",
        ),
        (
            "protocol = \"line\"\ngreeting_file = \"/nonexistent/greeting\"",
            "cannot read `greeting_file` /nonexistent/greeting: No such file or directory",
        ),
        (
            "protocol = \"line\"\ngreeting_file = \"/proc\"",
            "it is no regular file",
        ),
        (&pipe, "it is no regular file"),
        (
            "protocol = \"line\"\ngreeting = \"a\\n\"\ngreeting_file = \"a\"",
            "there are `greeting` and `greeting_file`",
        ),
        (
            "protocol = \"line\"\ngreeting = \"a\\n\"\nclient_first = true",
            "the servers have a greeting, and clients speak first",
        ),
    ] {
        let found = errors(&mail(2500, lines));
        assert!(found.len() == 1 && found[0].contains(what), "{found:#?}");
    }
}

/// What could never work is refused, with the reason.
#[test]
fn ports_are_known_by_who_speaks_first() {
    let server_first = [21, 22, 24, 25, 110, 119, 143, 587, 873, 4190, 5900];
    for port in server_first {
        for protocol in ["", "protocol = \"line\"", "protocol = { bytes = 4 }"] {
            let found = errors(&mail(port, protocol));
            assert!(found.len() == 1, "{found:#?}");
            let waits = "the client would wait for the inspector and the inspector for the client";
            assert!(found[0].contains(waits), "{found:#?}");
        }
        assert_eq!(errors(&mail(port, GREETED)), [""; 0], "{port}");
        assert_eq!(errors(&mail(port, "client_first = true")), [""; 0]);
    }
    for (port, what) in [(3306, "a random number"), (13, "the time")] {
        for lines in ["protocol = { bytes = 4 }", GREETED] {
            let found = errors(&mail(port, lines));
            assert!(found.len() == 1 && found[0].contains(what), "{found:#?}");
        }
        assert_eq!(errors(&mail(port, "client_first = true")), [""; 0]);
    }
    for port in [80, 443, 465, 993, 5432, 6379, 8080, 11_211] {
        assert_eq!(errors(&mail(port, "protocol = { bytes = 4 }")), [""; 0]);
    }
}

#[test]
fn the_ring_alone_needs_no_greeting() {
    let l4 = |lines: &str| {
        mail(25, lines)
            .replace("mode = \"l7\"", "mode = \"l4\"")
            .replace("inspector_port = 2525\n", "")
    };
    assert_eq!(errors(&l4("")), [""; 0]);
    for lines in [
        "greeting = \"a\"",
        "greeting_file = \"a\"",
        "client_first = true",
    ] {
        let found = errors(&l4(lines));
        let what = "means nothing in a service with `mode = \"l4\"`";
        assert!(found.len() == 1 && found[0].contains(what), "{found:#?}");
    }
}

#[test]
fn what_will_not_be_as_written_is_a_warning() {
    for (lines, what) in [
        ("handover = \"adopt\"", "are spliced"),
        ("undecided_ms = 500", ""),
    ] {
        let (_, warnings) = parse(&mail(25, &format!("{GREETED}{lines}"))).unwrap();
        let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), usize::from(!what.is_empty()));
        assert!(warnings.iter().all(|warning| warning.contains(what)));
    }
    let open = "protocol = \"line\"\ngreeting = \"220 mail ESMTP\"";
    let (_, warnings) = parse(&mail(25, open)).unwrap();
    assert!(warnings[0].to_string().contains("the end of a line"));
}

#[test]
fn rules_look_at_what_the_protocol_has() {
    let rule = |rule: &str| format!("[[service.rule]]\n{rule}\nto = \"local\"");
    for (lines, what) in [
        (rule("path = \"/a\""), "what a `protocol` of lines has not"),
        (rule("host = \"a\""), "what a `protocol` of lines has not"),
        (
            "keep_local = [\"/a\"]".to_owned(),
            "has no paths for `keep_local`",
        ),
        (
            "default = { hash = \"uri\" }".to_owned(),
            "no URI that the default target",
        ),
        (rule("line = \"\""), "which every line begins with"),
        (rule("line = \"a\\r\\n\""), "more than a line"),
        (
            format!(
                "undecided_bytes = 64\n{}",
                rule(&format!("line = \"{}\"", "a".repeat(64)))
            ),
            "no line so long fits",
        ),
        (
            rule("line = \"ehlo a\"\nline_prefix = \"HELO\""),
            "the rule matches nothing",
        ),
    ] {
        let found = errors(&mail(25, &format!("{GREETED}{lines}")));
        assert!(found.len() == 1 && found[0].contains(what), "{found:#?}");
    }
    for (lines, what) in [
        (rule("line = \"a\""), "what a `protocol` of HTTP has not"),
        (
            "default = { hash = \"line\" }".to_owned(),
            "no line that the default target",
        ),
    ] {
        let found = errors(&mail(80, &lines));
        assert!(found.len() == 1 && found[0].contains(what), "{found:#?}");
    }
    let rules = [
        rule("line_prefix = \"EHLO \""),
        rule("line = \"ehlo a\""),
        rule("line = \"QUIT\""),
    ];
    let (config, warnings) = parse(&mail(25, &format!("{GREETED}{}", rules.join("\n")))).unwrap();
    assert_eq!(config.services[0].rules.len(), 3);
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("never reached"),
        "{warnings:#?}"
    );
}
