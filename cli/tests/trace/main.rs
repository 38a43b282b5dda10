//! `dts trace` on real clusters: what it shows of handovers is what was on the wire. As root.

mod support;

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use dts_lab::ladder::{Ladder, Rung};
use dts_lab::{Capture, Family, Network, Place, Segment};
use dts_node::admin::{SegmentView, TraceSegment};

use support::{
    CLIENT, DTS, Trace, client, client_of, cluster, cluster_over, fetch, is_traced,
    nothing_stays_on, wait_for,
};

/// A segment as its program and verdict.
fn told(segment: &TraceSegment) -> (&str, &str) {
    (&segment.node, &segment.verdict)
}

/// Checks that segments of these nodes with these verdicts and flags come in this order, among others.
fn assert_order(segments: &[TraceSegment], expected: &[(&str, &str, &str)]) {
    let mut rest = segments.iter();
    for (node, verdict, flags) in expected {
        let found = rest.find(|s| told(s) == (node, verdict) && s.on_wire().flags == *flags);
        assert!(
            found.is_some(),
            "no {verdict} {flags} of {node} in its place:\n{}",
            brief(segments)
        );
    }
}

fn brief(segments: &[TraceSegment]) -> String {
    let line = |s: &TraceSegment| {
        let wire = s.on_wire();
        format!(
            "{} {} {} {} B {wire:?}\n",
            s.node, s.verdict, wire.flags, wire.len
        )
    };
    segments.iter().map(line).collect()
}

/// What a capture and a trace both say of a segment.
fn key(segment: &SegmentView) -> (SocketAddr, SocketAddr, u32, u32, u32, String) {
    let flags = segment.flags.clone();
    (
        segment.source,
        segment.destination,
        segment.seq,
        segment.ack,
        segment.len,
        flags,
    )
}

fn key_of_capture(segment: &Segment) -> (SocketAddr, SocketAddr, u32, u32, u32, String) {
    let len = segment.payload.len() as u32;
    let flags = segment.flags.to_string();
    (
        segment.source,
        segment.destination,
        segment.seq,
        segment.ack,
        len,
        flags,
    )
}

#[test]
fn a_splice_is_told_as_the_wires_have_it() {
    tell_a_splice(Family::V4, "trsplice");
}

#[test]
fn a_splice_over_ipv6_is_told_as_the_wires_have_it() {
    tell_a_splice(Family::V6, "trsplic6");
}

fn tell_a_splice(family: Family, name: &str) {
    let lab = cluster_over(family, name, "splice");
    let places = [CLIENT, Place::Node(1), Place::Node(2)];
    let networks = |place| match place {
        CLIENT => &[Network::Front][..],
        _ => &[Network::Front, Network::Back],
    };
    let captures: Vec<Capture> = places
        .into_iter()
        .flat_map(|place| networks(place).iter().map(move |network| (place, network)))
        .map(|(place, network)| lab.capture(place, network.interface(), "tcp").unwrap())
        .collect();
    let port = 40_001;
    let only = client_of(family, port).to_string();
    let json = Trace::of_lab(&lab, &["--json", "--client", &only]);
    let text = Trace::of_lab(&lab, &["--client", &only]);
    fetch(&lab, port, &["/n2/file"]);
    let segments = json.stop_json();
    let text = text.stop().out;
    let captured: Vec<Segment> = captures
        .into_iter()
        .flat_map(|capture| capture.stop().unwrap())
        .collect();
    let ladder = Ladder::of(&captured, client_of(family, port)).unwrap();
    nothing_stays_on(&lab);

    assert_order(
        &segments,
        &[
            ("n1", "to_inspector", "S"),
            ("n1", "from_inspector", "S."),
            ("n1", "to_inspector", "."),
            ("n1", "to_inspector", "P."),
            ("n1", "handover_out", "S"),
            ("n2", "handover_syn", "S"),
            ("n2", "to_peer", "S."),
            ("n1", "handover_reply", "S."),
            ("n1", "handover_out", "P."),
            ("n2", "handover_in", "P."),
            ("n2", "to_client", "."),
            ("n2", "direct", "F."),
            ("n1", "handover_reply", "F."),
        ],
    );
    // Every segment of the captures is told of, by its sender or the node that took it, and nothing else is. (What the
    // client sends until the end goes to n2.)
    let wires: Vec<_> = segments.iter().map(|s| key(s.on_wire())).collect();
    for rung in &ladder.rungs {
        let wanted = key_of_capture(&rung.segment);
        assert!(
            wires.contains(&wanted),
            "{rung:?} is not in\n{}",
            brief(&segments)
        );
    }
    let rungs: Vec<_> = ladder
        .rungs
        .iter()
        .map(|r| key_of_capture(&r.segment))
        .collect();
    for segment in segments.iter().filter(|segment| !segment.dropped) {
        let wire = key(segment.on_wire());
        assert!(rungs.contains(&wire), "{segment:?} is on no wire");
    }
    assert_same_order(&ladder, &segments);
    assert_rewritten(&ladder, &segments);
    let rows: Vec<&str> = text.lines().filter(|row| row.contains(&only)).collect();
    assert!(text.starts_with("        ms  client  "), "{text}");
    // A segment between the nodes is one row; the rest is as in JSON.
    let of_back = |s: &&TraceSegment| s.program == "back_ingress";
    let pairs = segments.iter().filter(of_back).count();
    assert_eq!(rows.len() + pairs, segments.len(), "{text}");
    for part in [
        "──SYN x──",
        "◀─SYN y ack x+1─",
        "to_inspector: to the inspector; port 80 -> 8081",
        "──SYN x ack y──",
        "request_handover to n2; seq +",
        "| n2: handover_syn: becomes the client's SYN; now ",
        "to_client: from the server; seq +",
        "direct: the server has the whole request",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// The rungs that one party sends to another come in the order in which it sent them.
fn assert_same_order(ladder: &Ladder, segments: &[TraceSegment]) {
    let ends = |rung: &Rung| (rung.segment.source, rung.segment.destination);
    let mut directions: Vec<_> = ladder.rungs.iter().map(ends).collect();
    directions.sort();
    directions.dedup();
    for direction in directions {
        let rungs = ladder.rungs.iter().filter(|rung| ends(rung) == direction);
        let rungs: Vec<_> = rungs.map(|rung| key_of_capture(&rung.segment)).collect();
        // Where two nodes tell of it, its sender.
        let sender = segments.iter().filter(|s| s.program != "back_ingress");
        let told: Vec<_> = sender
            .map(|s| key(s.on_wire()))
            .filter(|key| (key.0, key.1) == direction)
            .collect();
        assert_eq!(told, rungs, "{direction:?}");
    }
}

/// What is told of the rewriting is the paper's arithmetic.
fn assert_rewritten(ladder: &Ladder, segments: &[TraceSegment]) {
    let (x, y, w) = (ladder.client_isn, ladder.server_isn, ladder.own_isn);
    let of = |node: &str, verdict: &str| {
        let mut found = segments.iter().filter(|s| told(s) == (node, verdict));
        found
            .next()
            .unwrap_or_else(|| panic!("no {verdict} of {node}"))
    };
    let out = of("n1", "handover_out");
    let after = out.after.as_ref().unwrap();
    assert!(after.dts_option && !out.before.dts_option);
    assert_eq!(
        (after.seq, after.ack, after.source),
        (x, y, ladder.handover_from)
    );
    assert_eq!(
        (out.from.as_deref(), out.to.as_deref()),
        (Some("n1"), Some("n2"))
    );
    let arrived = of("n2", "handover_syn");
    let after = arrived.after.as_ref().unwrap();
    assert_eq!(
        (after.source, after.destination),
        (ladder.client, ladder.service)
    );
    assert_eq!(arrived.before, *out.on_wire());
    let response = of("n2", "direct");
    assert_eq!(response.peer.as_deref(), Some("n1"));
    let response = segments
        .iter()
        .find(|s| told(s) == ("n2", "to_client") && s.after.is_some() && s.before.len > 0);
    let response = response.expect("a response that is translated");
    let shift = response.on_wire().seq.wrapping_sub(response.before.seq);
    assert_eq!(shift, y.wrapping_sub(w));
    for segment in segments {
        let isns = (segment.client_isn, segment.server_isn);
        assert!(isns.0.is_none_or(|isn| isn == x), "{segment:?}");
        assert!(isns.1.is_none_or(|isn| isn == y), "{segment:?}");
        assert_eq!(segment.service.as_deref(), Some("web"));
        assert_eq!(segment.client, Some(ladder.client));
    }
}

#[test]
fn an_adoption_and_a_request_that_moves_are_told() {
    tell_an_adoption(Family::V4, "tradopt");
}

#[test]
fn an_adoption_over_ipv6_is_told() {
    tell_an_adoption(Family::V6, "tradopt6");
}

fn tell_an_adoption(family: Family, name: &str) {
    let lab = cluster_over(family, name, "adopt");
    let port = 40_001;
    let only = client_of(family, port).to_string();
    let json = Trace::of_lab(&lab, &["--json", "--service", "web", "--client", &only]);
    let text = Trace::of_lab(&lab, &["--client", &only]);
    fetch(&lab, port, &["/n2/file", "/n3/file"]);
    let segments = json.stop_json();
    let text = text.stop().out;
    assert_order(
        &segments,
        &[
            ("n1", "syn_answered", "S"),
            ("n1", "to_client", "S."),
            ("n1", "not_mine", "."),
            ("n1", "sent_on", "P."),
            ("n2", "adopted", "P."),
            ("n2", "pass", "P."),
            ("n2", "moved_on", "P."),
            ("n3", "adopted", "P."),
            ("n3", "pass", "P."),
        ],
    );
    let find = |node: &str, verdict: &str| {
        let mut found = segments.iter().filter(|s| told(s) == (node, verdict));
        found
            .next()
            .unwrap_or_else(|| panic!("no {verdict} of {node}"))
            .clone()
    };
    let sent = find("n1", "sent_on");
    assert_eq!(sent.peer.as_deref(), Some("n2"));
    assert_eq!(sent.before.ip_option, None);
    assert_eq!(sent.after.unwrap().ip_option.as_deref(), Some("first"));
    for (node, from, kind) in [("n2", "n1", "first"), ("n3", "n2", "next")] {
        let adopted = find(node, "adopted");
        assert_eq!(
            adopted.from.as_deref(),
            Some(from),
            "by the frame's link address"
        );
        assert_eq!(adopted.before.ip_option.as_deref(), Some(kind));
        assert_eq!(adopted.after.unwrap().ip_option, None);
    }
    // Nothing of what the servers say is rewritten.
    let passed = segments
        .iter()
        .filter(|s| s.verdict == "pass" || s.verdict == "to_client");
    assert!(passed.into_iter().all(|s| s.after.is_none()));
    for part in [
        "syn_answered: answered with a cookie, nothing is kept; made SYN y ack x+1",
        "╳",
        "not_mine: swallowed: the request will say the same",
        "sent_on: on to n2; IP option added (first)",
        "adopted: to the listener, whose kernel makes the socket of it; IP option taken out (first)",
        "moved_on: a later request, on to n3; its server's socket gets a FIN",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    nothing_stays_on(&lab);
}

#[test]
fn filters_select_and_all_shows_the_others() {
    let lab = cluster("trfilter", "splice");
    let (first, second) = (40_001, 40_002);
    let address = CLIENT.address(Network::Front).unwrap().to_string();
    let ours = Trace::of_lab(&lab, &["--json", "--client", &client(first).to_string()]);
    let both = Trace::of_lab(&lab, &["--json", "--client", &address]);
    let nobody = Trace::of_lab(&lab, &["--json", "--client", "198.18.0.77"]);
    let by_node = Trace::of_lab(&lab, &["--json", "--node", "n3"]);
    let all = Trace::of_lab(
        &lab,
        &["--json", "--all", "--client", &client(first).to_string()],
    );
    let config = lab.daemon_config(2);
    let one_node = Trace::begin(&["--json", "--config", config.to_str().unwrap()]);
    let counted = Trace::of_lab(&lab, &["--count", "3"]);
    fetch(&lab, first, &["/n2/file"]);
    fetch(&lab, second, &["/n3/file"]);
    let ours = ours.stop_json();
    let from = |segments: &[TraceSegment], port| {
        segments
            .iter()
            .filter(|s| s.client == Some(client(port)))
            .count()
    };
    assert!(!ours.is_empty());
    assert_eq!(from(&ours, first), ours.len(), "{}", brief(&ours));
    let both = both.stop_json();
    assert_eq!(from(&both, first), ours.len());
    assert!(from(&both, second) > 0);
    assert_eq!(from(&both, first) + from(&both, second), both.len());
    assert_eq!(nobody.stop_json().len(), 0);

    let by_node = by_node.stop_json();
    assert!(!by_node.is_empty());
    assert_eq!(from(&by_node, second), by_node.len(), "{}", brief(&by_node));
    let one_node = one_node.stop_json();
    assert!(!one_node.is_empty() && one_node.iter().all(|s| s.node == "n2"));
    assert!(from(&one_node, first) == one_node.len());
    // The nodes that have nothing to do with it drop the client's segments.
    let all = all.stop_json();
    for (node, verdict) in [
        ("n3", "not_owner"),
        ("n3", "not_mine"),
        ("n1", "handed_over"),
    ] {
        let found = |segments: &[TraceSegment]| segments.iter().any(|s| told(s) == (node, verdict));
        assert!(found(&all) && !found(&both), "{verdict}");
    }
    let counted = counted.end();
    assert_eq!(counted.code, Some(0), "{}", counted.errors);
    assert_eq!(counted.out.lines().count(), 1 + 3, "{}", counted.out);
    assert!(
        counted.errors.contains("3 segments of 1 connections in "),
        "{}",
        counted.errors
    );
    nothing_stays_on(&lab);
}

#[test]
fn whatever_ends_a_trace_nothing_stays_on() {
    let lab = cluster("trends", "splice");
    let killed = Trace::of_lab(&lab, &["--json"]);
    let timed = Trace::of_lab(&lab, &["--seconds", "1"]);
    assert!((1..=3).all(|node| is_traced(&lab, node)));
    killed.kill("KILL");
    let timed = timed.end();
    assert_eq!(timed.code, Some(0), "{}", timed.errors);
    assert!(
        timed.errors.contains("0 segments of 0 connections in 1."),
        "{}",
        timed.errors
    );
    nothing_stays_on(&lab);

    // Its reader has seen enough.
    let script = format!(
        "{DTS} trace --lab {} --seconds 8 | head -n 2",
        lab.spec().name
    );
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", &script]);
    let mut shell = shell
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the piped trace goes on", || is_traced(&lab, 3));
    let mut ports = 41_000..;
    wait_for("the piped trace ends", || {
        fetch(&lab, ports.next().unwrap(), &["/n2/file"]);
        shell.try_wait().unwrap().is_some()
    });
    let output: Output = shell.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    nothing_stays_on(&lab);

    // A daemon that goes is said, and the others are traced still.
    let trace = Trace::of_lab(&lab, &["--json"]);
    lab.kill_daemon(3).unwrap();
    wait_for("the loss is said", || {
        trace.said().contains("n3 is not traced any more")
    });
    fetch(&lab, 40_004, &["/n2/file"]);
    let segments = trace.stop_json();
    assert!(
        segments.iter().any(|s| s.node == "n2"),
        "{}",
        brief(&segments)
    );
}

#[test]
fn mistakes_are_said_in_a_sentence() {
    let lab = cluster("trwrong", "splice");
    let name = &*lab.spec().name;
    let run = |arguments: &[&str]| {
        let output = Command::new(DTS)
            .arg("trace")
            .args(arguments)
            .output()
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), errors)
    };
    for (arguments, code, part) in [
        (&["--lab", "nolab"][..], 1, "nolab"),
        (
            &["--lab", name, "--node", "n9"],
            1,
            "there is no node \"n9\": the members are n1, n2, n3",
        ),
        (
            &["--lab", name, "--service", "x"],
            1,
            "there is no service \"x\": the node has web",
        ),
        (
            &["--socket", "/run/none.sock"],
            3,
            "no daemon answers at /run/none.sock",
        ),
    ] {
        let (got, errors) = run(arguments);
        assert_eq!(got, Some(code), "{errors}");
        assert!(errors.contains(part), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    // More than there may be at once.
    let eight: Vec<Trace> = (0..8).map(|_| Trace::of_lab(&lab, &["--json"])).collect();
    let (code, errors) = run(&["--lab", name]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("8 traces are going on already"), "{errors}");
    for trace in eight {
        trace.stop();
    }
    nothing_stays_on(&lab);
}
