extern crate std;

use std::string::String;

use super::*;

fn read(text: &str, with_host: bool) -> (Head, Bytes) {
    let bytes = bytes(text.as_bytes());
    (scan(&bytes, text.len(), with_host), bytes)
}

fn part(bytes: &Bytes, from: u32, to: u32) -> String {
    (from..to).map(|at| char::from(one(bytes, at))).collect()
}

#[test]
fn a_request_line_is_read() {
    let (head, bytes) = read("GET /a/b?c=/d?e HTTP/1.1\r\nanything", false);
    assert!(head.is_plain());
    assert_eq!(part(&bytes, head.target, head.path_end), "/a/b");
    assert_eq!(part(&bytes, head.target, head.target_end), "/a/b?c=/d?e");
    assert_eq!(head.next, 26);
}

#[test]
fn the_first_of_eight_is_found() {
    for at in 0..8 {
        let mut bytes = *b"abcdefgh";
        bytes[at] = b'\n';
        let word = u64::from_le_bytes(bytes);
        assert_eq!(first(word, b'\n'), at as u32);
        assert_eq!(text(word), at as u32);
    }
    let word = u64::from_le_bytes(*b"ab ~!zZ9");
    assert_eq!(first(word, b'\n'), 8);
    assert_eq!(text(word), 8);
    assert_eq!(text(u64::from_le_bytes(*b"abc\x7f\xff\x1fgh")), 3);
    assert_eq!(first(u64::from_le_bytes(*b"\n\x0b\n\x0babcd"), b'\n'), 0);
}

#[test]
fn a_host_is_read() {
    for (line, host) in [
        ("Host: a.b", "a.b"),
        ("hOST:a-1.B.:8080 \t", "a-1.B"),
        ("Host:  a.b.", "a.b"),
        ("Host:", ""),
        ("Hosts: x", ""),
        ("X-Host: y", ""),
    ] {
        let text = std::format!("GET / HTTP/1.0\r\nAccept: */*\r\n{line}\r\nA: b\r\n\r\n");
        let (head, bytes) = read(&text, true);
        assert!(head.is_plain(), "{line}");
        assert_eq!(part(&bytes, head.host, head.host_end), host, "{line}");
    }
}

#[test]
fn what_is_not_plain_or_not_whole_is_left() {
    for text in [
        "",
        "GET",
        "GET / HTTP/1.1\r",
        "get / HTTP/1.1\r\n",
        " / HTTP/1.1\r\n",
        "GET  / HTTP/1.1\r\n",
        "GET * HTTP/1.1\r\n",
        "GET http://a/ HTTP/1.1\r\n",
        "GET /a\"b HTTP/1.1\r\n",
        "GET /a#b HTTP/1.1\r\n",
        "GET / HTTP/2.0\r\n",
        "GET / HTTP/1.2\r\n",
        "GET / HTTP/1.1 \r\n",
        "GET / HTTP/1.1\n",
        "GET / HTTQ/1.1\r\n",
        "\r\nGET / HTTP/1.1\r\n",
    ] {
        assert!(!read(text, false).0.is_plain(), "{text:?}");
    }
    for headers in [
        "Host: a",
        "Host: a\r\n",
        "Host: a\r\n b\r\n\r\n",
        "Host: a\r\nHost: a\r\n\r\n",
        "Host: [::1]\r\n\r\n",
        "Host: a b\r\n\r\n",
        "Host: a..\r\n\r\n",
        "Host: a:1:2\r\n\r\n",
        "A b: c\r\n\r\n",
        "A: \u{7f}\r\n\r\n",
        "A: b\n\r\n",
        ": b\r\n\r\n",
    ] {
        let text = std::format!("GET / HTTP/1.1\r\n{headers}");
        assert!(!read(&text, true).0.is_plain(), "{headers:?}");
        assert!(read(&text, false).0.is_plain(), "{headers:?}");
    }
}

#[test]
fn what_may_be_followed_by_a_body_is_not_alone() {
    for (head, alone) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("DELETE /x HTTP/1.1\r\nA: b\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", false),
        ("GET / HTTP/1.1\r\ncONTENT-lENGTH: 5\r\n\r\n", false),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
        ),
        ("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", false),
        ("PUT / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nCONNECTION:\t Keep-Alive\r\n\r\n", true),
    ] {
        let (scanned, _) = read(head, true);
        assert!(scanned.is_plain(), "{head:?}");
        assert_eq!(scanned.is_alone(head.len() as u32), alone, "{head:?}");
        assert!(
            !scanned.is_alone(head.len() as u32 + 1),
            "{head:?} and more"
        );
        assert!(!scanned.asks_for_head());
    }
    assert!(read("HEAD / HTTP/1.1\r\n\r\n", true).0.asks_for_head());
    assert!(!read("AHEAD / HTTP/1.1\r\n\r\n", true).0.asks_for_head());
}

/// What is skimmed eight bytes at a time is read as it is byte by byte: wherever the data end, and wherever a part begins.
#[test]
fn skimming_changes_nothing() {
    let head = "GET /a/long%20path/x?query=1&other=\"2\" HTTP/1.1\r\nHost: a.example:80\r\nAccept-Language: de, en\r\n\
                X-Y: \t\u{e9}\r\nConnection: keep-alive\r\n\r\n";
    let (plain, odd) = (head.replace(['"', '\u{e9}'], ""), head.replace('"', ""));
    for text in [&plain, &odd, head] {
        for from in 0..9 {
            let text = text.replace("/a/", &std::format!("/{}/", "a".repeat(from)));
            for len in 0..=text.len() {
                let bytes = bytes(text.as_bytes());
                let mut slow = Head::new(true, 0);
                for end in 1..=len {
                    // Less than eight bytes ahead: nothing is skimmed.
                    slow.limit = end as u32;
                    while slow.at < at::DONE && slow.step(&bytes) {}
                }
                let mut skimmed = scan(&bytes, len, true);
                if slow.headers == 0 {
                    // Left over from the method.
                    (skimmed.last, skimmed.count) = (slow.last, slow.count);
                }
                assert_eq!(skimmed, slow, "{len} of {text}");
            }
        }
    }
    assert!(read(&plain, true).0.is_plain());
}

#[test]
fn a_head_of_any_length_ends_the_scan() {
    let long = "a".repeat(HEAD - 5);
    let (head, _) = read(&std::format!("GET /{long}"), false);
    assert!(!head.is_plain());
    assert_eq!(head.next as usize, HEAD);
}
