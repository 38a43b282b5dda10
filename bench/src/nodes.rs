//! What the packets that are another node's cost a node, as nodes grow: every node gets every packet of every client.
//!
//! One node's filter is measured, with a ring of so many members, of which the others don't exist. The packets are those of
//! whole short connections. What a cluster of that size would have each node do is computed from it.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use clap::Args;
use dts_core::addr::FlowKey;
use dts_core::segment::{ACK, FIN};
use dts_core::verdict::{Action, DropReason, Verdict};
use dts_lab::{LabGuard, LabSpec, ServerKind};

use crate::filter::request;
use crate::packets::{DATA, Segment, X, Y, timestamps};
use crate::plot::{Axes, Point, Series, lines};
use crate::progress::Progress;
use crate::run::{Report, Run, extremes, figure, median};
use crate::staged::{ADOPT, NODE, Staged};

const MEMBERS: [u8; 7] = [1, 2, 4, 8, 16, 32, 64];
/// New connections per second of the whole cluster for which shares of a core are computed.
const RATE: f64 = 100_000.0;
const PROGRAM: &str = "front_ingress";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often every size is measured, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections of each size and round whose packets are given to the filter.
    #[arg(long, default_value_t = 4000)]
    flows: usize,
    /// How often a packet is repeated that is another node's.
    #[arg(long, default_value_t = 300_000)]
    repeats: u32,
}

/// A client's packets of a short connection, in their order.
#[derive(Clone, Copy)]
enum Packet {
    Syn,
    Ack,
    Request,
    LastAck,
    Fin,
}

const PACKETS: [Packet; 5] = [
    Packet::Syn,
    Packet::Ack,
    Packet::Request,
    Packet::LastAck,
    Packet::Fin,
];

impl Packet {
    const fn name(self) -> &'static str {
        match self {
            Self::Syn => "SYN",
            Self::Ack => "ACK",
            Self::Request => "request",
            Self::LastAck => "ACK of the response",
            Self::Fin => "FIN",
        }
    }

    /// The frame; `cookie` is what the SYN was answered with: sequence number and timestamp.
    fn frame(self, flow: &FlowKey, (isn, tsval): (u32, u32)) -> Vec<u8> {
        let request = b"GET /n2/1k HTTP/1.1\r\nHost: x\r\n\r\n";
        let after = X + 1 + request.len() as u32;
        let (seq, ack, flags, payload) = match self {
            Self::Syn => return Segment::syn(flow).frame(),
            Self::Ack => (X + 1, 1, ACK, &[][..]),
            Self::Request => (X + 1, 1, DATA, &request[..]),
            Self::LastAck => (after, 1200, ACK, &[][..]),
            Self::Fin => (after, 1200, FIN | ACK, &[][..]),
        };
        Segment {
            options: timestamps(1010, tsval),
            payload: payload.to_vec(),
            ..Segment::of_client(flow, seq, isn.wrapping_add(ack), flags)
        }
        .frame()
    }

    /// What becomes of it at a node that has nothing to do with it.
    const fn as_anothers(self) -> Verdict {
        match self {
            Self::Syn => Verdict::Drop(DropReason::NotOwner),
            _ => Verdict::Drop(DropReason::NotMine),
        }
    }

    /// What becomes of it at the node that inspects, when another node has the content.
    const fn as_own(self) -> Verdict {
        match self {
            Self::Syn => Verdict::Done(Action::SynAnswered),
            Self::Ack | Self::LastAck => Verdict::Drop(DropReason::NotMine),
            Self::Request => Verdict::Done(Action::SentOn),
            // It acknowledges the response: the other node's server has the connection.
            Self::Fin => Verdict::Drop(DropReason::HandedOver),
        }
    }
}

/// Nanoseconds of a size: for each packet a figure of each round, less the empty program's.
#[derive(Clone, Default)]
struct Costs {
    others_once: [Vec<f64>; PACKETS.len()],
    others_repeated: [Vec<f64>; PACKETS.len()],
    own_once: [Vec<f64>; PACKETS.len()],
}

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    let (rounds, flows, repeats) = match run.quick {
        true => (3, 300, 50_000),
        false => (options.rounds, options.flows, options.repeats),
    };
    ensure!(
        rounds >= 1 && (1..=20_000).contains(&flows) && repeats >= 1,
        "at least one round, 1 to 20000 flows, at least one repeat"
    );
    let mut report = Report::new("nodes");
    report.set_up("rounds", rounds);
    report.set_up("connections of each size and round", flows);
    report.set_up("repeats", repeats);
    report.set_up("ring", "63 points a node");
    let progress = Progress::new("nodes", rounds);
    progress.begin("building the lab");
    let mut spec = LabSpec::new("small", 1, &run.dts).without_daemons();
    spec.server = ServerKind::None;
    let lab = LabGuard::up(spec)?;
    let work = || -> anyhow::Result<Vec<Costs>> {
        let mut staged = Staged::new(&lab, 1)?;
        let mut costs = vec![Costs::default(); MEMBERS.len()];
        for round in 1..=rounds {
            progress.begin(format!("round {round} of {rounds}"));
            for (members, costs) in MEMBERS.iter().zip(&mut costs) {
                staged.set_members(*members)?;
                measure(&staged, *members, (flows, repeats), costs)
                    .with_context(|| format!("with {members} nodes"))?;
            }
            progress.done();
        }
        Ok(costs)
    };
    let costs = lab.within(NODE, work)??;
    drop(progress);
    report.file("raw.csv", csv(&costs));
    report.file("share.svg", plot(&costs)?);
    report.summary(&summary(&costs));
    report.finish(run)
}

/// A round of one size.
fn measure(
    staged: &Staged,
    members: u8,
    (count, repeats): (usize, u32),
    costs: &mut Costs,
) -> anyhow::Result<()> {
    let (once, repeated) = nothing(staged, count, repeats)?;
    if members == 1 {
        // Nothing is another's, and nothing is handed over.
        return Ok(());
    }
    let flows = staged.flows(count, ADOPT, false)?;
    for (number, packet) in PACKETS.into_iter().enumerate() {
        let frames: Vec<_> = flows.iter().map(|f| packet.frame(f, (Y, 5000))).collect();
        let cost = single(staged, packet, &frames, packet.as_anothers())?;
        costs.others_once[number].push(cost - once);
        let run = || Ok(staged.filter.measure(PROGRAM, 0, &frames[0], repeats)?);
        let (ran, grown) = staged.counted(run)?;
        Staged::check(
            packet.name(),
            &grown,
            (packet.as_anothers(), repeats.into()),
        )?;
        costs.others_repeated[number].push(ran.duration.as_nanos() as f64 - repeated);
    }
    let flows = staged.flows(count, ADOPT, true)?;
    let cookies = flows
        .iter()
        .map(|flow| Ok(request(staged, flow)?.1))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for (number, packet) in PACKETS.into_iter().enumerate() {
        let with_cookies = flows.iter().zip(&cookies);
        let frames: Vec<_> = with_cookies.map(|(f, c)| packet.frame(f, *c)).collect();
        let cost = single(staged, packet, &frames, packet.as_own())?;
        costs.own_once[number].push(cost - once);
    }
    Ok(())
}

/// What the empty program takes, in a single run and in many.
fn nothing(staged: &Staged, count: usize, repeats: u32) -> anyhow::Result<(f64, f64)> {
    let frame = [0x22; 100];
    let single = (0..count)
        .map(|_| Ok(staged.once("nothing", &frame)?.duration.as_nanos() as f64))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let repeated = staged.filter.measure("nothing", 0, &frame, repeats)?;
    let repeated = repeated.duration.as_nanos() as f64;
    Ok((median(single.into_iter()), repeated))
}

/// The median of single runs, one for each frame, all of which must meet the verdict.
fn single(
    staged: &Staged,
    packet: Packet,
    frames: &[Vec<u8>],
    verdict: Verdict,
) -> anyhow::Result<f64> {
    let run = || {
        let each = frames.iter();
        each.map(|frame| Ok(staged.once(PROGRAM, frame)?.duration.as_nanos() as f64))
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let (durations, grown) = staged.counted(run)?;
    Staged::check(packet.name(), &grown, (verdict, frames.len() as u64))?;
    Ok(median(durations.into_iter()))
}

/// Sums over a connection's packets, one for each round.
fn sums(costs: &[Vec<f64>]) -> Vec<f64> {
    let rounds = costs.iter().map(Vec::len).min().unwrap_or(0);
    (0..rounds)
        .map(|round| costs.iter().map(|packet| packet[round]).sum())
        .collect()
}

/// The share of a core, in percent, that a node of so many spends on the others' packets at [`RATE`], from nanoseconds for
/// each connection of another's.
fn share(members: u8, ns: f64) -> f64 {
    let others = f64::from(members - 1) / f64::from(members);
    RATE * others * ns / 1e9 * 100.0
}

fn plot(costs: &[Costs]) -> anyhow::Result<String> {
    let series = |name: &str, of: &dyn Fn(&Costs) -> Vec<f64>| Series {
        name: name.to_owned(),
        points: MEMBERS
            .iter()
            .zip(costs)
            .map(|(members, costs)| {
                let shares: Vec<_> = of(costs).iter().map(|ns| share(*members, *ns)).collect();
                let none = [0.0];
                let shares = if shares.is_empty() {
                    &none[..]
                } else {
                    &shares
                };
                Point::of(f64::from(*members), shares)
            })
            .collect(),
    };
    let axes = Axes {
        title: "Filter time for the other nodes' packets, at 100,000 connections/s in all",
        x: "nodes",
        y: "percent of a core",
        log_x: true,
    };
    lines(
        &axes,
        &[
            series("different packets, one call each", &|c| {
                sums(&c.others_once)
            }),
            series("the same packet repeated", &|c| sums(&c.others_repeated)),
        ],
    )
}

fn csv(costs: &[Costs]) -> String {
    let mut raw = String::from("nodes,packet,whose,way,round,ns\n");
    for (members, costs) in MEMBERS.iter().zip(costs) {
        for (whose, way, packets) in [
            ("another's", "once", &costs.others_once),
            ("another's", "repeated", &costs.others_repeated),
            ("own", "once", &costs.own_once),
        ] {
            for (packet, values) in PACKETS.iter().zip(packets) {
                for (round, ns) in values.iter().enumerate() {
                    let name = packet.name();
                    let _ = writeln!(raw, "{members},{name},{whose},{way},{round},{ns:.0}");
                }
            }
        }
    }
    raw
}

fn summary(costs: &[Costs]) -> String {
    let mut text = String::from(
        "Measured: nanoseconds of `front_ingress` less the empty program's, medians of the rounds (and their spread), summed \
         over a client's five packets of a short connection (adopt). Computed: the other columns. A node of N gets all five \
         packets of every connection, and inspects one connection in N; at 100,000 connections/s of the whole cluster it \
         drops 500,000 (N-1)/N packets/s.\n\n\
         | nodes | another's connection, repeated, ns | another's connection, once, ns | own, handed over, once, ns | \
         packets seen per connection | of these another's | share of a core for the others' packets, repeated to once |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (members, costs) in MEMBERS.iter().zip(costs) {
        let cell = |costs: &[Vec<f64>]| {
            let sums = sums(costs);
            let (least, most) = extremes(sums.iter().copied());
            match sums.is_empty() {
                true => ("-".to_owned(), 0.0),
                false => {
                    let middle = median(sums.iter().copied());
                    let text =
                        format!("{} ({} to {})", figure(middle), figure(least), figure(most));
                    (text, share(*members, middle))
                }
            }
        };
        let (repeated, low) = cell(&costs.others_repeated);
        let (once, high) = cell(&costs.others_once);
        let (own, _) = cell(&costs.own_once);
        let others = 5.0 * f64::from(members - 1) / f64::from(*members);
        let _ = writeln!(
            text,
            "| {members} | {repeated} | {once} | {own} | 5 | {others:.2} | {low:.1} % to {high:.1} % |"
        );
    }
    text += "\nEach packet, another's, once / repeated, ns:\n\n| nodes |";
    for packet in PACKETS {
        let _ = write!(text, " {} |", packet.name());
    }
    text += "\n|---|---|---|---|---|---|\n";
    for (members, costs) in MEMBERS.iter().zip(costs).skip(1) {
        let _ = write!(text, "| {members} |");
        for (once, repeated) in costs.others_once.iter().zip(&costs.others_repeated) {
            let middle = |values: &[f64]| figure(median(values.iter().copied()));
            let _ = write!(text, " {} / {} |", middle(once), middle(repeated));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_grow_towards_all_packets() {
        assert_eq!(share(1, 500.0), 0.0);
        assert_eq!(share(2, 500.0), 2.5);
        assert!((share(64, 500.0) - 4.921_875).abs() < 1e-9);
    }

    #[test]
    fn rounds_are_summed_over_packets() {
        assert_eq!(sums(&[vec![1.0, 2.0], vec![10.0, 20.0]]), [11.0, 22.0]);
        assert!(sums(&[vec![], vec![]]).is_empty());
    }
}
