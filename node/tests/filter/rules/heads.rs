//! Heads of requests, from plain ones to such as no client sends.

use dts_node::config::Service;

use super::configuration::{HOSTS, any_path};

/// As long as the kernel lets a frame of BPF_PROG_TEST_RUN be, with its headers.
const LONGEST: usize = 3000;

/// The beginning of a request, as one segment has it.
pub(super) fn any_head(rng: &mut fastrand::Rng, service: &Service) -> Vec<u8> {
    let mut head = request_line(rng, service);
    let end = line_end(rng);
    head.extend(end);
    for _ in 0..rng.u8(..5) {
        header(rng, &mut head, end);
    }
    // HTTP/1.0 knows requests without a host.
    if rng.u8(..) > 20 {
        host(rng, service, &mut head);
        head.extend(end);
    }
    for _ in 0..rng.u8(..5) {
        header(rng, &mut head, end);
    }
    if rng.u8(..) < 2 {
        // About as many as the filter, and as the inspector, takes.
        for _ in 0..rng.choice([85, 95, 101, 120, 130]).expect("some") {
            head.extend(b"A: b");
            head.extend(end);
        }
    }
    head.extend(end);
    if rng.u8(..) < 40 {
        head.extend(vec![rng.u8(..); rng.usize(..200)]);
    }
    damage(rng, &mut head);
    head.truncate(LONGEST);
    if head.is_empty() {
        // A segment without data is no request.
        head.push(b'G');
    }
    head
}

/// Flips bits and cuts: seldom, or nothing would be plain.
fn damage(rng: &mut fastrand::Rng, head: &mut Vec<u8>) {
    match rng.u8(..) {
        0..12 => {
            let at = rng.usize(..head.len());
            head[at] ^= 1 << rng.u8(..8);
        }
        12..20 => {
            let at = rng.usize(..head.len());
            head[at] = *rng.choice(b"\0\t\r\n :./?#@\"\x7f\x80\xff").expect("some");
        }
        20..28 => {
            let at = rng.usize(..head.len());
            head.insert(at, *rng.choice(b"\t\r\n :./?\xe4").expect("some"));
        }
        28..34 => {
            head.remove(rng.usize(..head.len()));
        }
        34..48 => head.truncate(rng.usize(1..=head.len())),
        _ => {}
    }
}

fn line_end(rng: &mut fastrand::Rng) -> &'static [u8] {
    match rng.u8(..) {
        0..6 => b"\n",
        6..8 => b"\r",
        8..10 => b" \r\n",
        _ => b"\r\n",
    }
}

fn request_line(rng: &mut fastrand::Rng, service: &Service) -> Vec<u8> {
    let methods = [
        "POST", "HEAD", "OPTIONS", "M-SEARCH", "get", "G3T", "", " GET", "\r\nGET",
    ];
    let method = match rng.u8(..) {
        0..16 => rng.choice(methods).expect("some"),
        _ => "GET",
    };
    let space = match rng.u8(..) {
        0..2 => "  ",
        2..4 => "\t",
        _ => " ",
    };
    let versions = [
        "HTTP/1.0",
        "HTTP/1.1 ",
        "HTTP/2.0",
        "HTTP/1.2",
        "http/1.1",
        "HTTP/1.",
        "",
    ];
    let version = match rng.u8(..) {
        0..12 => rng.choice(versions).expect("some"),
        _ => "HTTP/1.1",
    };
    let target = target(rng, service);
    format!("{method}{space}{target} {version}").into_bytes()
}

/// A request target: most often in origin form, with a path that some rule is for or nearly for.
fn target(rng: &mut fastrand::Rng, service: &Service) -> String {
    let mut path = match rng.choice(&service.rules) {
        Some(rule) if rng.u8(..) < 170 => {
            let matcher = &rule.matcher;
            let named = matcher.path.as_ref().or(matcher.path_prefix.as_ref());
            named.cloned().unwrap_or_else(|| any_path(rng))
        }
        _ => match rng.choice(&service.keep_local) {
            Some(kept) if rng.bool() => kept.clone(),
            _ => any_path(rng),
        },
    };
    match rng.u8(..) {
        0..50 => path.push_str(&any_path(rng)),
        50..70 => path.push('x'),
        70..80 => {
            path.pop();
        }
        80..84 => path.push_str(&"/deep".repeat(rng.usize(20..130))),
        84..90 => path = path.to_ascii_uppercase(),
        _ => {}
    }
    match rng.u8(..) {
        0..60 => path.push_str("?q=1&r=/a?b"),
        60..70 => path.push('?'),
        70..74 => path.push_str("#part"),
        74..78 => path.push_str("\"<>"),
        _ => {}
    }
    match rng.u8(..) {
        0..6 => format!("http://{}{path}", rng.choice(HOSTS).expect("some")),
        6..8 => format!("HTTPS://u@{}:80{path}", rng.choice(HOSTS).expect("some")),
        8..10 => "*".to_owned(),
        10..12 => "a.example:443".to_owned(),
        12..14 => format!("a{path}"),
        _ => path,
    }
}

/// The host's line, without its end: the name of a rule's host, mostly.
fn host(rng: &mut fastrand::Rng, service: &Service, head: &mut Vec<u8>) {
    let named = rng.choice(&service.rules);
    let mut host = match named.and_then(|rule| rule.matcher.host.clone()) {
        Some(host) if rng.u8(..) < 180 => host,
        _ => rng.choice(HOSTS).expect("some").to_owned(),
    };
    match rng.u8(..) {
        0..40 => host = host.to_ascii_uppercase(),
        40..60 => host.push('.'),
        60..64 => host.push_str(".."),
        64..68 => host.insert(0, '.'),
        68..72 => host = ".".to_owned(),
        72..78 => host.clear(),
        78..82 => host.push_str(" x"),
        82..86 => host = "[2001:db8::1]".to_owned(),
        86..90 => host.push_str(".evil.example"),
        _ => {}
    }
    match rng.u8(..) {
        0..50 => host.push_str(":8080"),
        50..56 => host.push(':'),
        56..60 => host.push_str(":80:80"),
        60..64 => host.push_str(":http"),
        _ => {}
    }
    let names = [
        "host",
        "HOST",
        "hOsT",
        "Host ",
        "Hos",
        "X-Host",
        "H\u{f6}st",
    ];
    let name = match rng.u8(..) {
        0..30 => rng.choice(names).expect("some"),
        _ => "Host",
    };
    let space = rng
        .choice([" ", " ", " ", "", "  ", "\t", "\r\n "])
        .expect("some");
    let after = rng.choice(["", "", "", "", " ", "\t "]).expect("some");
    head.extend(format!("{name}:{space}{host}{after}").bytes());
}

/// Any other header, and now and then a second host.
fn header(rng: &mut fastrand::Rng, head: &mut Vec<u8>, end: &[u8]) {
    let long = "v".repeat(rng.usize(..600));
    let line: &[u8] = match rng.u16(..1024) {
        0..2 => b"Host: b.example",
        2..4 => b"Host: a.example",
        4..6 => b"Folded: a\r\n b",
        6..8 => b"No colon",
        8..10 => b": no name",
        10..12 => b"Space : before",
        12..14 => b"Latin: gr\xfc\xdfe",
        14..16 => b"Under_score: a",
        16..18 => b"Odd(name): a",
        18..20 => b"Control: a\x01b",
        20..22 => b"Tab:\ta\tb\t",
        22..60 => long.as_bytes(),
        60..80 => b"Empty:",
        80..300 => b"Accept: text/html, */*;q=0.8",
        300..600 => b"Cookie: a=b; host=c",
        _ => b"User-Agent: curl/8.0 (x)",
    };
    if line == long.as_bytes() {
        head.extend(b"Long: ");
    }
    head.extend(line);
    head.extend(end);
}
