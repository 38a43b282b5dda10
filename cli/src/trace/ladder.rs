//! The ladder: a line for each party, and a row for each segment.

use anstyle::{AnsiColor, Style};
use dts_node::admin::TraceStart;

use crate::row;

use super::merge::Rung;
use super::notes::{labels, note};
use super::numbers::Numbers;

const BOLD: Style = Style::new().bold();
const DROPPED: Style = AnsiColor::Yellow.on_default();

/// How far the lines are apart, in characters.
const DISTANCE: usize = 24;

/// Up to how many members each have a line of their own.
const MOST_MEMBERS: usize = 6;

/// What a segment's sender or receiver is called if it is the client, and nodes without a line.
const CLIENT: &str = "client";
const OTHERS: &str = "others";

/// A ladder that grows.
pub(super) struct Ladder {
    parties: Vec<String>,
    numbers: Numbers,
    /// When the first segment was seen.
    start: Option<u64>,
}

impl Ladder {
    /// One with a line for each party.
    pub(super) fn new(starts: &[TraceStart]) -> Self {
        let members = starts.first().map_or(&[][..], |start| &start.members);
        let traced: Vec<String> = starts.iter().map(|start| start.node.clone()).collect();
        let mut parties = vec![CLIENT.to_owned()];
        if members.len() <= MOST_MEMBERS {
            parties.extend_from_slice(members);
        } else {
            parties.extend(traced.iter().cloned());
            let all = members.iter().all(|member| traced.contains(member));
            parties.extend((!all).then(|| OTHERS.to_owned()));
        }
        Self {
            parties,
            numbers: Numbers::default(),
            start: None,
        }
    }

    /// The first line.
    pub(super) fn heading(&self) -> String {
        let names = self.parties.iter().map(|name| format!("{name:<DISTANCE$}"));
        let names: String = names.collect();
        format!("{:>10}  {BOLD}{}{BOLD:#}\n", "ms", names.trim_end())
    }

    /// A segment's line.
    pub(super) fn line(&mut self, rung: &Rung) -> String {
        let segment = &rung.segment;
        let isns = self.numbers.learn(segment);
        let start = *self.start.get_or_insert(segment.monotonic_ns);
        let ms = segment.monotonic_ns.saturating_sub(start) as f64 / 1e6;
        let labels = labels(segment, &isns);
        let ends = (self.place(&segment.from), self.place(&segment.to));
        let (row, beside) = match ends {
            (Some(from), Some(to)) => (self.row((from, to), &labels, segment.dropped), None),
            _ => (self.lines().into_iter().collect(), labels.first()),
        };
        let client = segment
            .client
            .map_or("?".to_owned(), |client| client.to_string());
        let beside = beside.map_or(String::new(), |label| format!("{label}, "));
        let style = if segment.dropped {
            DROPPED
        } else {
            Style::new()
        };
        let text = note(segment, &isns);
        let arrival = rung.arrival.as_ref().map_or(String::new(), |arrival| {
            format!(" | {}: {}", arrival.node, note(arrival, &isns))
        });
        format!("{ms:>10.3}  {row}  {client:<21}  {beside}{style}{text}{style:#}{arrival}\n")
    }

    /// Which line is a party's.
    fn place(&self, name: &Option<String>) -> Option<usize> {
        let name = name.as_ref()?;
        let place = |name: &str| self.parties.iter().position(|party| party == name);
        place(name).or_else(|| place(OTHERS))
    }

    /// The parties' lines alone.
    fn lines(&self) -> Vec<char> {
        row::lines(self.parties.len(), DISTANCE)
    }

    /// The parties' lines with an arrow.
    fn row(&self, (from, to): (usize, usize), labels: &[String], dropped: bool) -> String {
        if from == to {
            return self.to_itself(from, labels, dropped);
        }
        let mut row = self.lines();
        let places = (DISTANCE * from, DISTANCE * to);
        row::draw_arrow(&mut row, places, labels, dropped);
        row.into_iter().collect()
    }

    /// A segment from a node to itself.
    fn to_itself(&self, at: usize, labels: &[String], dropped: bool) -> String {
        let mut row = self.lines();
        // The last line has room beside it as well, so that all rows are equally long.
        let begin = match at + 1 == self.parties.len() {
            true => DISTANCE * at - DISTANCE + 2,
            false => DISTANCE * at + 2,
        };
        row[DISTANCE * at] = if dropped { '╳' } else { '↺' };
        row::write(&mut row[begin..], labels, DISTANCE - 3);
        row.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::notes::tests::{Sample, sample};
    use super::*;

    fn ladder(nodes: u8) -> Ladder {
        let members: Vec<String> = (1..=nodes).map(|n| format!("n{n}")).collect();
        let node = "n1".to_owned();
        Ladder::new(&[TraceStart { node, members }])
    }

    fn drawn(mut ladder: Ladder, samples: &[(Sample, Option<Sample>)]) -> String {
        let mut text = ladder.heading();
        for (time, (which, arrival)) in (0..).zip(samples) {
            let mut segment = sample(*which);
            segment.monotonic_ns += time * 123_456;
            text += &ladder.line(&Rung {
                segment,
                arrival: arrival.map(sample),
            });
        }
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn a_spliced_handover() {
        let handover = [
            (Sample::Syn, None),
            (Sample::SynAck, None),
            (Sample::HandoverSynLeaves, Some(Sample::HandoverSynArrives)),
            (Sample::Response, None),
        ];
        insta::assert_snapshot!(drawn(ladder(2), &handover), @r"
           ms  client                  n1                      n2
        0.000  │──SYN x───────────────▶│                       │  198.18.0.201:40000     to_inspector: to the inspector; port 80 -> 8081
        0.123  │◀─SYN y ack x+1────────│                       │  198.18.0.201:40000     from_inspector: from the inspector; port 8081 -> 80
        0.247  │                       │──SYN x ack y─────────▶│  198.18.0.201:40000     handover_out: request_handover to n2; seq +4294959296, ack is y, DTS option for the SYN's own | n2: handover_syn: becomes the client's SYN; now 198.18.0.201:40000 > 198.18.0.100:80, the SYN's own options for the DTS option
        0.370  │◀─FIN 252 B y+1 ack x+89───────────────────────│  198.18.0.201:40000     to_client: from the server; seq +4294965296, window 500 -> 62, TS +500
        ");
    }

    #[test]
    fn an_adopted_one() {
        let handover = [
            (Sample::SynAnswered, None),
            (Sample::Swallowed, None),
            (Sample::SentOn, None),
            (Sample::Adopted, None),
        ];
        insta::assert_snapshot!(drawn(ladder(2), &handover), @r"
           ms  client                  n1                      n2
        0.000  │──SYN x───────────────▶│                       │  198.18.0.201:40000     syn_answered: answered with a cookie, nothing is kept; made SYN y ack x+1
        0.123  │──ACK y+1─────────────╳│                       │  198.18.0.201:40000     not_mine: swallowed: the request will say the same
        0.247  │──88 B x+1 ack y+1────▶│                       │  198.18.0.201:40000     sent_on: on to n2; IP option added (first)
        0.370  │                       │──88 B x+1 ack y+1────▶│  198.18.0.201:40000     adopted: to the listener, whose kernel makes the socket of it; IP option taken out (first)
        ");
    }

    #[test]
    fn many_members_share_a_line() {
        let mut self_handover = sample(Sample::HandoverSynLeaves);
        self_handover.to = self_handover.from.clone();
        let mut unknown = sample(Sample::Adopted);
        (unknown.from, unknown.client) = (None, None);
        let mut ladder = ladder(7);
        let mut text = ladder.heading();
        for segment in [sample(Sample::HandoverSynLeaves), self_handover, unknown] {
            text += &ladder.line(&Rung {
                segment,
                arrival: None,
            });
        }
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r"
           ms  client                  n1                      others
        0.000  │                       │──SYN x ack 5000──────▶│  198.18.0.201:40000     handover_out: request_handover to n2; seq +4294959296, ack is y, DTS option for the SYN's own
        0.000  │                       ↺ SYN x ack 5000        │  198.18.0.201:40000     handover_out: request_handover to n2; seq +4294959296, ack is y, DTS option for the SYN's own
        0.000  │                       │                       │  ?                      88 B 1001 ack 5001, adopted: to the listener, whose kernel makes the socket of it; IP option taken out (first)
        ");
    }
}
