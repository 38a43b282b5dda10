//! A handover as a sequence diagram: client, inspecting node and processing node side by side, and
//! what each segment is beside it.
//!
//! ```text
//!         client              n4                  n2
//!    0.000  │──SYN x────────────▶│                   │  the client asks for a connection
//! ```

use std::fmt::Write as _;

use anstyle::Style;
use dts_core::handover::{AGREED_ECN, AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS};
use dts_lab::Segment;
use dts_lab::ladder::{Ladder, Party, Rung, Step};

use super::evidence::Outcome;
use crate::row;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// How wide the time is, with what follows it, and how far the lines are apart, in characters.
const MARGIN: usize = 10;
const DISTANCE: usize = 20;

/// The whole diagram.
pub(super) fn render(ladder: &Ladder, outcome: &Outcome) -> String {
    let mut text = heading(ladder, outcome);
    let start = ladder.rungs.first().map(|rung| rung.segment.time);
    for rung in &ladder.rungs {
        let after = rung.segment.time - start.unwrap_or_default();
        let notes = notes(ladder, rung);
        let mut notes = notes.iter();
        let first = notes.next().map_or("", String::as_str);
        let arrow = arrow(rung.from, rung.to, &labels(ladder, rung));
        let milliseconds = after.as_secs_f64() * 1000.0;
        let _ = writeln!(text, "{milliseconds:>8.3}  {arrow}  {first}");
        for note in notes {
            let _ = writeln!(text, "{:MARGIN$}{}  {DIM}{note}{DIM:#}", "", lines());
        }
    }
    text
}

fn heading(ladder: &Ladder, outcome: &Outcome) -> String {
    let (inspecting, processing) = (ladder.inspecting, ladder.processing);
    let (x, y, w) = (ladder.client_isn, ladder.server_isn, ladder.own_isn);
    format!(
        "\n{BOLD}Request {} (GET {}), segment by segment{BOLD:#}: inspected by {inspecting}, processed by \
         {processing}\n\
         x = {x:<10}  initial sequence number of the client, {}\n\
         y = {y:<10}  that of {inspecting}, of its SYN-ACK\n\
         w = {w:<10}  that of {processing}'s server, on no wire: the filter adds y-w to what the server sends\n\
         a1:e = {} is {inspecting}'s end of the handover connection, {} is {processing}'s\n\n\
         {:>8}  {BOLD}{:<DISTANCE$}{:<DISTANCE$}{processing}{BOLD:#}\n\
         {:>8}  {:<DISTANCE$}{:<DISTANCE$}processing\n",
        outcome.number,
        outcome.path,
        ladder.client,
        ladder.handover_from,
        ladder.handover_to,
        "",
        "client",
        inspecting.to_string(),
        "ms",
        "",
        "inspecting",
    )
}

/// How many parties there are.
const PARTIES: usize = 3;

/// The place of a party's line, from the left.
const fn line(party: Party) -> usize {
    DISTANCE
        * match party {
            Party::Client => 0,
            Party::Inspecting => 1,
            Party::Processing => 2,
        }
}

/// The parties' lines alone.
fn lines() -> String {
    row::lines(PARTIES, DISTANCE).into_iter().collect()
}

/// The parties' lines with an arrow on which the first of `labels` is written that has room.
fn arrow(from: Party, to: Party, labels: &[String]) -> String {
    let mut row = row::lines(PARTIES, DISTANCE);
    row::draw_arrow(&mut row, (line(from), line(to)), labels, false);
    row.into_iter().collect()
}

/// What may stand on a segment's arrow, the longest first.
fn labels(ladder: &Ladder, rung: &Rung) -> Vec<String> {
    let segment = &rung.segment;
    let (seq, ack) = (ladder.seq_name(rung), ladder.ack_name(rung));
    let mut kinds = Vec::new();
    kinds.extend(segment.flags.syn.then(|| "SYN".to_owned()));
    kinds.extend(segment.flags.fin.then(|| "FIN".to_owned()));
    kinds.extend(segment.flags.rst.then(|| "RST".to_owned()));
    if !segment.payload.is_empty() {
        kinds.push(format!("{} B", segment.payload.len()));
    }
    if kinds.is_empty() {
        return vec![format!("ACK {ack}")];
    }
    let short = format!("{} {seq}", kinds.join(" "));
    match segment.flags.ack {
        true => vec![format!("{short} ack {ack}"), short],
        false => vec![short],
    }
}

/// What stands beside a segment: its meaning and place in the paper, its raw numbers, its options.
fn notes(ladder: &Ladder, rung: &Rung) -> Vec<String> {
    let segment = &rung.segment;
    let again = if rung.again { ", again" } else { "" };
    let mut notes = vec![format!("{}{again}", meaning(rung))];
    let (paper, seq, ack) = (rung.step.paper(), segment.seq, segment.ack);
    notes.push(format!("{paper}: {seq}, ack {ack}"));
    if rung.step == Step::HandoverSyn {
        notes.extend(option_notes(ladder));
    }
    let options = options(segment);
    if !options.is_empty() {
        notes.push(options);
    }
    notes
}

fn meaning(rung: &Rung) -> &'static str {
    match (rung.step, rung.from) {
        (Step::Syn, _) => "SYN to all nodes, one takes it",
        (Step::SynAck, _) => "accepted by the inspector",
        (Step::Ack, _) => "connected",
        (Step::Request, _) => "request, read by the inspector",
        (Step::RequestAck, Party::Processing) => "the server has the request",
        (Step::RequestAck, _) => "the inspector has the request",
        (Step::HandoverSyn, _) => "request_handover: SYN from a1:e, as x",
        (Step::HandoverSynAck, _) => "the server's SYN-ACK, its w made y",
        (Step::HandoverAck, _) => "handover connection is up",
        (Step::HandoverRequest, _) => "the same request; ack says where it ends",
        (Step::HandoverFin, _) => "FIN from the processing node",
        (Step::Response, _) => "response, straight to the client",
        (Step::ResponseAck, _) => "the client has it",
        (Step::ClientFin, _) => "the client closes",
        (Step::ServerFin, _) => "the server closes",
        (Step::FinAck, _) => "closed",
        (Step::Reset, _) => "reset",
    }
}

/// What the DTS option says.
fn option_notes(ladder: &Ladder) -> Vec<String> {
    let option = &ladder.option;
    let agreed: Vec<String> = [
        (AGREED_TIMESTAMPS, "TS".to_owned()),
        (AGREED_SACK, "SACK".to_owned()),
        (
            AGREED_SCALE,
            format!("WS {}/{}", option.client_scale, option.announced_scale),
        ),
        (AGREED_ECN, "ECN".to_owned()),
    ]
    .into_iter()
    .filter(|(bit, _)| option.agreed & bit != 0)
    .map(|(_, name)| name)
    .collect();
    let tag: String = ladder
        .tag
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    vec![
        format!("DTS option: client {}", ladder.client),
        format!("  y {}, tag {tag}", option.server_isn.0),
        format!("  agreed {}, mss {}", agreed.join(" "), option.client_mss),
        format!("  TS client {}", option.client_tsval),
        format!("  TS server {}", option.server_tsval),
    ]
}

/// The options of interest.
fn options(segment: &Segment) -> String {
    let options = &segment.options;
    let mut parts = Vec::new();
    parts.extend(options.mss.map(|mss| format!("mss {mss}")));
    parts.extend(options.window_scale.map(|scale| format!("WS {scale}")));
    parts.extend(options.sack_permitted.then(|| "SACK".to_owned()));
    let stamps = options.timestamps;
    parts.extend(stamps.map(|(value, echo)| format!("TS {value}/{echo}")));
    let blocks = options.sack.iter();
    parts.extend(blocks.map(|(begin, end)| format!("SACK {begin}-{end}")));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_go_from_line_to_line() {
        use Party::{Client, Inspecting, Processing};
        let draw = |from, to, label: &str| arrow(from, to, &[label.to_owned()]);
        insta::assert_snapshot!(
            [
                lines(),
                draw(Client, Inspecting, "SYN x"),
                draw(Inspecting, Client, "SYN y ack x+1"),
                draw(Inspecting, Processing, "SYN x"),
                draw(Processing, Client, "FIN y+1 ack x+2"),
            ]
            .join("\n"),
            @r"
        │                   │                   │
        │──SYN x───────────▶│                   │
        │◀─SYN y ack x+1────│                   │
        │                   │──SYN x───────────▶│
        │◀─FIN y+1 ack x+2──────────────────────│
        "
        );
    }

    #[test]
    fn a_label_without_room_gives_way_to_a_shorter_one() {
        let long = "1234567 B y+1234567 ack x+1234567".to_owned();
        let drawn = arrow(
            Party::Client,
            Party::Inspecting,
            &[long.clone(), "short".to_owned()],
        );
        assert!(drawn.contains("─short─"));
        let drawn = arrow(Party::Client, Party::Inspecting, &[long]);
        assert!(drawn.contains("────"));
    }
}
