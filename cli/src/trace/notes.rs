//! What is said of a segment: its flags and numbers, what the filter did with it, what was rewritten.

use dts_node::admin::{SegmentView, TraceSegment};

use super::numbers::{Isns, Whose};

/// What may stand on a segment's arrow, the longest first.
pub(super) fn labels(segment: &TraceSegment, isns: &Isns) -> Vec<String> {
    labels_of(segment.on_wire(), isns, whose(segment))
}

/// Whose sequence numbers a segment has.
fn whose(segment: &TraceSegment) -> Whose {
    let wire = segment.on_wire();
    if Some(wire.source) == segment.client {
        return Whose::Client;
    }
    if Some(wire.destination) == segment.client {
        return Whose::Server;
    }
    // On a handover connection the inspecting node speaks with the client's numbers.
    match &*segment.verdict {
        "handover_reply" | "to_peer" | "direct" | "reset_both" => Whose::Server,
        _ => Whose::Client,
    }
}

fn labels_of(segment: &SegmentView, isns: &Isns, whose: Whose) -> Vec<String> {
    let other = match whose {
        Whose::Client => Whose::Server,
        Whose::Server => Whose::Client,
    };
    let has = |flag| segment.flags.contains(flag);
    let seq = isns.name(segment.seq, whose);
    let ack = isns.name(segment.ack, other);
    let mut kinds = Vec::new();
    kinds.extend(has('S').then(|| "SYN".to_owned()));
    kinds.extend(has('F').then(|| "FIN".to_owned()));
    kinds.extend(has('R').then(|| "RST".to_owned()));
    if segment.len != 0 {
        kinds.push(format!("{} B", segment.len));
    }
    if kinds.is_empty() {
        return vec![format!("ACK {ack}")];
    }
    let short = format!("{} {seq}", kinds.join(" "));
    let long = if segment.request_end {
        // The field says where the request ends.
        format!("{short} end {}", isns.name(segment.ack, whose))
    } else if has('.') || segment.dts_option {
        format!("{short} ack {ack}")
    } else {
        return vec![short];
    };
    vec![long, short]
}

/// What the filter did, and what was rewritten.
pub(super) fn note(segment: &TraceSegment, isns: &Isns) -> String {
    let mut note = segment.verdict.clone();
    if let Some(meaning) = meaning(segment) {
        note += &format!(": {meaning}");
    }
    let Some(after) = &segment.after else {
        return note;
    };
    let what = match &*segment.verdict {
        "syn_answered" | "fin_answered" | "answered" | "reset_client" | "time_wait_killed"
        | "orphan_reset" | "stale_reset" => made(after, segment, isns),
        "moved_on" => "its server's socket gets a FIN".to_owned(),
        // The arrow says what was made for the inspecting node.
        "direct" | "reset_both" => String::new(),
        _ => changes(&segment.before, after).join(", "),
    };
    if !what.is_empty() {
        note += &format!("; {what}");
    }
    note
}

/// The segment that was made of another.
fn made(after: &SegmentView, segment: &TraceSegment, isns: &Isns) -> String {
    let whose = match Some(after.destination) == segment.client {
        true => Whose::Server,
        false => Whose::Client,
    };
    let labels = labels_of(after, isns, whose);
    format!("made {}", labels.first().map_or("", String::as_str))
}

/// What a verdict means, in a few words; what goes without saying is left out.
fn meaning(segment: &TraceSegment) -> Option<String> {
    let peer = segment.peer.as_deref().unwrap_or("another node");
    let bare = segment.before.flags == "." && segment.before.len == 0;
    let text = match &*segment.verdict {
        "pass" if segment.leaves() => "from the server, as it is",
        "pass" => "to the server as it is",
        "to_inspector" => "to the inspector",
        "from_inspector" => "from the inspector",
        "to_server" => "to the server",
        "to_client" if segment.after.is_none() => "as the filter has made it",
        "to_client" => "from the server",
        "direct" => "the server has the whole request, the handover ends",
        "reset_both" => "the server resets, during the handover",
        "to_peer" => "the server's, during the handover",
        "handover_out" if segment.after.as_ref().is_some_and(|after| after.dts_option) => {
            return Some(format!("request_handover to {peer}"));
        }
        "handover_out" => "on the handover connection",
        "handover_reply" => "on the handover connection",
        "handover_syn" => "becomes the client's SYN",
        "handover_ack" => "swallowed: the request says the same",
        "handover_in" => "to the server",
        "redirected" => "second pass",
        "challenge" => "to the live socket, which challenges it",
        "released" => "the old connection is over: SYN on to the inspecting node",
        "release_in" => "a SYN that another node has released",
        "syn_answered" => "answered with a cookie, nothing is kept",
        "inquired" => "copied to the daemon, nothing acknowledged",
        "sent_on" => return Some(format!("on to {peer}")),
        "adopted" => "to the listener, whose kernel makes the socket of it",
        "moved_on" => return Some(format!("a later request, on to {peer}")),
        "refused" => "no server for it here",
        "not_mine" if bare => "swallowed: the request will say the same",
        "handed_over" | "not_mine" | "not_owner" => "another node's",
        "alive_elsewhere" => "the flow is alive on another node",
        "frozen" => "the inspector's, after the handover has begun",
        "after_handover" => "needless",
        "duplicate_request" => "its server has had it",
        "replayed_handover" => "accepted before, and over",
        "moved_away" => "the old server's, after the request has moved",
        "lease_expired" => "the daemon is away or hangs",
        "no_neighbour" => return Some(format!("the link address of {peer} is not known yet")),
        "queue_full" => "the server accepts too slowly",
        "inspector_busy" => "the daemon is behind",
        "extension_header" => "behind an extension header of IPv6",
        "bad_cookie" => "answers no SYN-ACK of this cluster",
        "too_early" => "the handover is not that far",
        _ => return None,
    };
    Some(text.to_owned())
}

/// What was rewritten.
fn changes(before: &SegmentView, after: &SegmentView) -> Vec<String> {
    let mut changes = addresses(before, after);
    // As the filter does it: a number is added to what is a node's own, and taken from what answers that. So these are the
    // numbers of `dts connections`, both ways.
    let added = |name: &str, from: u32, to: u32| {
        (from != to).then(|| format!("{name} +{}", to.wrapping_sub(from)))
    };
    let taken = |name: &str, from: u32, to: u32| {
        (from != to).then(|| format!("{name} -{}", from.wrapping_sub(to)))
    };
    if before.flags != after.flags {
        changes.push(format!("flags {} -> {}", before.flags, after.flags));
    }
    changes.extend(added("seq", before.seq, after.seq));
    changes.extend(match (before.request_end, after.request_end) {
        (false, true) => Some("ack says where the request ends".to_owned()),
        (true, false) => Some("ack restored".to_owned()),
        _ if after.dts_option => Some("ack is y".to_owned()),
        _ if before.dts_option => None,
        _ => taken("ack", before.ack, after.ack),
    });
    if before.window != after.window {
        changes.push(format!("window {} -> {}", before.window, after.window));
    }
    if let (Some(from), Some(to)) = (before.timestamps, after.timestamps) {
        changes.extend(added("TS", from.0, to.0));
        changes.extend(taken("TS echo", from.1, to.1));
    }
    if before.sack != after.sack {
        changes.push("SACK shifted".to_owned());
    }
    changes.extend(options(before, after));
    if before.len != after.len {
        changes.push(format!("{} B -> {} B", before.len, after.len));
    }
    changes
}

fn addresses(before: &SegmentView, after: &SegmentView) -> Vec<String> {
    let (from, to) = (
        (before.source, before.destination),
        (after.source, after.destination),
    );
    if from == to {
        return Vec::new();
    }
    let same_hosts = (from.0.ip(), from.1.ip()) == (to.0.ip(), to.1.ip());
    if !same_hosts {
        return vec![format!("now {} > {}", to.0, to.1)];
    }
    [(from.0.port(), to.0.port()), (from.1.port(), to.1.port())]
        .into_iter()
        .filter(|(from, to)| from != to)
        .map(|(from, to)| format!("port {from} -> {to}"))
        .collect()
}

fn options(before: &SegmentView, after: &SegmentView) -> Vec<String> {
    let mut changes = Vec::new();
    match (before.dts_option, after.dts_option) {
        (false, true) => changes.push("DTS option for the SYN's own".to_owned()),
        (true, false) => changes.push("the SYN's own options for the DTS option".to_owned()),
        _ => {}
    }
    match (&before.ip_option, &after.ip_option) {
        (None, Some(kind)) => changes.push(format!("IP option added ({kind})")),
        (Some(kind), None) => changes.push(format!("IP option taken out ({kind})")),
        (Some(from), Some(to)) if from != to => changes.push(format!("IP option {from} -> {to}")),
        _ => {}
    }
    changes
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A segment of a handover from n1 to n2. x is 1000, y 5000.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Sample {
        /// At n1, spliced.
        Syn,
        /// Of n1's inspector.
        SynAck,
        /// On the back network, where it leaves n1.
        HandoverSynLeaves,
        /// The same, where it arrives at n2.
        HandoverSynArrives,
        /// From n2's server to the client.
        Response,
        /// At n1, adopted.
        SynAnswered,
        /// A client's bare acknowledgment that n1 swallows.
        Swallowed,
        /// The request at n1, on its way to n2.
        SentOn,
        /// The same, where it arrives at n2.
        Adopted,
    }

    const CLIENT: &str = "198.18.0.201:40000";
    const VIP: &str = "198.18.0.100:80";

    fn view(source: &str, destination: &str, flags: &str, (seq, ack): (u32, u32)) -> SegmentView {
        SegmentView {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            flags: flags.to_owned(),
            seq,
            ack,
            window: 500,
            urgent: 0,
            len: 0,
            request_end: false,
            mss: None,
            scale: None,
            sack_permitted: false,
            sack: Vec::new(),
            timestamps: Some((10, 20)),
            dts_option: false,
            ip_option: None,
        }
    }

    /// What a node tells, `after` being the rest.
    fn told(
        (node, program, verdict): (&str, &str, &str),
        (from, to): (&str, &str),
        before: SegmentView,
        after: Option<SegmentView>,
    ) -> TraceSegment {
        TraceSegment {
            time_us: 0,
            monotonic_ns: 1_000_000,
            node: node.to_owned(),
            program: program.to_owned(),
            verdict: verdict.to_owned(),
            dropped: verdict == "not_mine",
            service: Some("web".to_owned()),
            client: Some(CLIENT.parse().unwrap()),
            vip: Some(VIP.parse().unwrap()),
            from: Some(from.to_owned()),
            to: Some(to.to_owned()),
            peer: Some("n2".to_owned()),
            client_isn: Some(1000),
            server_isn: None,
            before,
            after,
        }
    }

    pub(crate) fn sample(which: Sample) -> TraceSegment {
        let to_n1 = ("client", "n1");
        let (back_1, back_2) = ("198.18.1.11:51123", "198.18.1.12:7411");
        let syn = || view(CLIENT, VIP, "S", (1000, 0));
        let handover_syn = || SegmentView {
            dts_option: true,
            timestamps: None,
            urgent: 40_000,
            ..view(back_1, back_2, "S", (1000, 5000))
        };
        let request = || SegmentView {
            len: 88,
            ..view(CLIENT, VIP, "P.", (1001, 5001))
        };
        let sent_on = || SegmentView {
            ip_option: Some("first".to_owned()),
            ..request()
        };
        match which {
            Sample::Syn => told(
                ("n1", "front_ingress", "to_inspector"),
                to_n1,
                syn(),
                Some(view(CLIENT, "198.18.0.100:8081", "S", (1000, 0))),
            ),
            Sample::SynAck => told(
                ("n1", "front_egress", "from_inspector"),
                ("n1", "client"),
                view("198.18.0.100:8081", CLIENT, "S.", (5000, 1001)),
                Some(view(VIP, CLIENT, "S.", (5000, 1001))),
            ),
            Sample::HandoverSynLeaves => told(
                ("n1", "back_egress", "handover_out"),
                ("n1", "n2"),
                view(back_1, back_2, "S", (9000, 0)),
                Some(handover_syn()),
            ),
            Sample::HandoverSynArrives => told(
                ("n2", "back_ingress", "handover_syn"),
                ("n1", "n2"),
                handover_syn(),
                Some(syn()),
            ),
            Sample::Response => TraceSegment {
                server_isn: Some(5000),
                ..told(
                    ("n2", "front_egress", "to_client"),
                    ("n2", "client"),
                    SegmentView {
                        len: 252,
                        ..view(VIP, CLIENT, "FP.", (7001, 1089))
                    },
                    Some(SegmentView {
                        len: 252,
                        window: 62,
                        timestamps: Some((510, 20)),
                        ..view(VIP, CLIENT, "FP.", (5001, 1089))
                    }),
                )
            },
            Sample::SynAnswered => told(
                ("n1", "front_ingress", "syn_answered"),
                to_n1,
                syn(),
                Some(view(VIP, CLIENT, "S.", (5000, 1001))),
            ),
            Sample::Swallowed => told(
                ("n1", "front_ingress", "not_mine"),
                to_n1,
                view(CLIENT, VIP, ".", (1001, 5001)),
                None,
            ),
            Sample::SentOn => told(
                ("n1", "front_ingress", "sent_on"),
                to_n1,
                request(),
                Some(sent_on()),
            ),
            Sample::Adopted => told(
                ("n2", "back_ingress", "adopted"),
                ("n1", "n2"),
                sent_on(),
                Some(request()),
            ),
        }
    }

    const ISNS: Isns = Isns {
        x: Some(1000),
        y: Some(5000),
    };

    #[test]
    fn each_segment_has_a_label_and_a_note() {
        let all = [
            Sample::Syn,
            Sample::SynAck,
            Sample::HandoverSynLeaves,
            Sample::HandoverSynArrives,
            Sample::Response,
            Sample::SynAnswered,
            Sample::Swallowed,
            Sample::SentOn,
            Sample::Adopted,
        ];
        let line = |which: &Sample| {
            let segment = sample(*which);
            let label = labels(&segment, &ISNS).remove(0);
            format!("{label} | {}", note(&segment, &ISNS))
        };
        let lines: Vec<String> = all.iter().map(line).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        SYN x | to_inspector: to the inspector; port 80 -> 8081
        SYN y ack x+1 | from_inspector: from the inspector; port 8081 -> 80
        SYN x ack y | handover_out: request_handover to n2; seq +4294959296, ack is y, DTS option for the SYN's own
        SYN x ack y | handover_syn: becomes the client's SYN; now 198.18.0.201:40000 > 198.18.0.100:80, the SYN's own options for the DTS option
        FIN 252 B y+1 ack x+89 | to_client: from the server; seq +4294965296, window 500 -> 62, TS +500
        SYN x | syn_answered: answered with a cookie, nothing is kept; made SYN y ack x+1
        ACK y+1 | not_mine: swallowed: the request will say the same
        88 B x+1 ack y+1 | sent_on: on to n2; IP option added (first)
        88 B x+1 ack y+1 | adopted: to the listener, whose kernel makes the socket of it; IP option taken out (first)
        ");
    }

    #[test]
    fn the_ends_of_requests_and_ports_are_said() {
        let mut segment = sample(Sample::HandoverSynLeaves);
        let after = segment.after.as_mut().unwrap();
        after.dts_option = false;
        after.request_end = true;
        after.len = 88;
        after.flags = "P.".to_owned();
        (after.seq, after.ack) = (1001, 1089);
        segment.before.flags = "P.".to_owned();
        segment.before.len = 88;
        let text = format!("{:?} {}", labels(&segment, &ISNS), note(&segment, &ISNS));
        insta::assert_snapshot!(text, @r#"["88 B x+1 end x+89", "88 B x+1"] handover_out: on the handover connection; seq +4294959297, ack says where the request ends"#);
    }
}
