//! A SYN flood beside legitimate clients: how these fare with DTS, by both ways of handing over, and with a plain kernel.

mod clients;
mod memory;
mod syns;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use dts_lab::{ClusterSpec, FileSet, Lab, LabGuard, LabSpec, Network, Place, VIP};
use dts_node::admin::Client;

use self::clients::{BODY, Load, Outcome};
use self::memory::Memory;
use crate::plot::bars;
use crate::progress::Progress;
use crate::run::{Report, Run, extremes, figure, median};

const NODES: u8 = 2;
const CLIENTS: Place = Place::Client(1);
const FLOODER: Place = Place::Client(2);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often every side is measured, in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each flood, and of the quiet before it; at most 30.
    #[arg(long, default_value_t = 6)]
    seconds: u32,
    /// SYNs per second of the flood; at most 200000.
    #[arg(long, default_value_t = 100_000)]
    syns: u32,
    /// Legitimate connections per second; at most 200.
    #[arg(long, default_value_t = 100)]
    requests: u32,
}

/// Who is flooded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Adopt,
    Splice,
    Plain,
}

const SIDES: [Side; 3] = [Side::Adopt, Side::Splice, Side::Plain];

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Adopt => "DTS, adopt",
            Self::Splice => "DTS, splice",
            Self::Plain => "plain kernel with SYN cookies",
        }
    }

    /// The address that is asked and flooded, and whose files are asked for.
    fn target(self) -> anyhow::Result<(Ipv4Addr, Vec<Place>)> {
        let nodes = (1..=NODES).map(Place::Node);
        if self != Self::Plain {
            return Ok((VIP, nodes.collect()));
        }
        let node = Place::Node(1);
        let address = node.address(Network::Front).context("a node's address")?;
        Ok((address, vec![node]))
    }

    fn spec(self, run: &Run) -> LabSpec {
        let mut spec = LabSpec::new("flood", NODES, &run.dts);
        spec.clients = 2;
        // It must not send the answers on: their receivers don't exist.
        let forward = ("net.ipv4.ip_forward".to_owned(), "0".to_owned());
        spec.client_sysctls.push(forward);
        for node in &mut spec.nodes {
            // Enough for everything; it has the processor time counted.
            node.cpu_quota = Some(2.0);
            let cookies = ("net.ipv4.tcp_syncookies".to_owned(), "1".to_owned());
            node.sysctls.push(cookies);
        }
        match self {
            Self::Adopt => spec.cluster.services_toml = Some(ClusterSpec::services(NODES, "adopt")),
            Self::Splice => {
                spec.cluster.services_toml = Some(ClusterSpec::services(NODES, "splice"))
            }
            Self::Plain => return spec.without_daemons(),
        }
        spec
    }
}

/// What was measured in one phase.
struct Phase {
    clients: Outcome,
    seconds: f64,
    syns: u64,
    /// Frames that the flooded nodes got, on the average, and that all nodes sent.
    received: u64,
    sent: u64,
    /// Of all nodes.
    cpu: Duration,
    memory: Memory,
    /// What DTS's filters have counted, by name.
    verdicts: BTreeMap<String, u64>,
}

/// A side's round.
struct Round {
    quiet: Phase,
    flood: Phase,
    maps: u64,
}

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    let (rounds, seconds) = match run.quick {
        true => (1, 3),
        false => (options.rounds, options.seconds),
    };
    ensure!(
        rounds >= 1 && (1..=30).contains(&seconds),
        "at least one round, 1 to 30 seconds"
    );
    ensure!(
        (1..=200_000).contains(&options.syns) && (1..=200).contains(&options.requests),
        "1 to 200000 SYNs and 1 to 200 requests per second"
    );
    let mut report = Report::new("flood");
    report.set_up("rounds", rounds);
    report.set_up("seconds of quiet, and of flood", seconds);
    report.set_up("SYNs per second, aimed at", options.syns);
    report.set_up("legitimate connections per second", options.requests);
    report.set_up(
        "sources of the flood",
        "198.19.0.0/16, at random, routed to the flooder, which ignores answers",
    );
    report.set_up(
        "nodes",
        format!("{NODES} for DTS; the plain kernel is one of them, asked directly"),
    );
    let progress = Progress::new("flood", rounds * SIDES.len());
    let mut results: Vec<Vec<Round>> = SIDES.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for (side, results) in SIDES.iter().zip(&mut results) {
            progress.begin(format!("{}, round {round} of {rounds}", side.name()));
            let measured = measure(*side, seconds, options, run);
            results.push(measured.with_context(|| side.name())?);
            progress.done();
        }
    }
    drop(progress);
    report.packages(&["nginx-light"]);
    report.file("raw.csv", csv(&results));
    report.file("success.svg", plot(&results)?);
    report.summary(&summary(&results));
    report.finish(run)
}

/// One side, in a lab of its own: nothing of an earlier flood is left.
fn measure(side: Side, seconds: u32, options: &Options, run: &Run) -> anyhow::Result<Round> {
    let lab = LabGuard::up(side.spec(run))?;
    let flooder = FLOODER.address(Network::Front);
    let flooder = flooder.context("the flooder's address")?;
    for place in (1..=NODES).map(Place::Node) {
        let mut files = FileSet::new(6);
        files.add(format!("{place}/1k"), BODY as u64)?;
        lab.publish(&[place], &files)?;
        // Answers have a neighbour to go to: a neighbour table that overflows is not what this is about.
        lab.sh(place, &format!("ip route add 198.19.0.0/16 via {flooder}"))?;
    }
    let (address, nodes) = side.target()?;
    let load = Load {
        to: SocketAddr::from((address, 80)),
        nodes,
        per_second: options.requests,
        duration: Duration::from_secs(seconds.into()),
    };
    let quiet = phase(&lab, side, &load, 0)?;
    ensure!(
        quiet.clients.success() >= 99.0,
        "without a flood only {:.1} % of the requests succeed: {:?}",
        quiet.clients.success(),
        quiet.clients.failures
    );
    let flood = phase(&lab, side, &load, options.syns)?;
    ensure!(
        flood.received * 5 > flood.syns && flood.syns > 0,
        "of {} SYNs the nodes have got {} frames: the machine is too busy",
        flood.syns,
        flood.received
    );
    let maps = memory::maps(&lab);
    Ok(Round { quiet, flood, maps })
}

/// Legitimate requests, and SYNs beside them.
fn phase(lab: &Lab, side: Side, load: &Load, syns: u32) -> anyhow::Result<Phase> {
    let (address, _) = side.target()?;
    let to = SocketAddrV4::new(address, 80);
    let places: Vec<_> = (1..=NODES).map(Place::Node).collect();
    let flooded = if side == Side::Plain {
        1
    } else {
        u64::from(NODES)
    };
    let counted = || -> anyhow::Result<(u64, u64, Duration)> {
        let mut sum = (0, 0, Duration::ZERO);
        for place in &places {
            let counters = lab.counters(*place, Network::Front.interface())?;
            sum.0 += counters.rx_frames;
            sum.1 += counters.tx_frames;
            sum.2 += lab.cpu_time(*place)?;
        }
        Ok(sum)
    };
    let before = counted()?;
    let verdicts_before = verdicts(lab)?;
    let begin = Instant::now();
    let stop = AtomicBool::new(false);
    let most = load.duration + Duration::from_secs(5);
    let (clients, sent, memory) = thread::scope(|scope| {
        let flood = || match syns {
            0 => Ok(Ok(0)),
            _ => lab.within(FLOODER, || syns::send(to, syns, most, &stop)),
        };
        let flood = scope.spawn(flood);
        let memory = scope.spawn(|| Memory::watch(lab, &stop));
        let clients = lab.within(CLIENTS, || clients::ask(load));
        stop.store(true, Ordering::Relaxed);
        (clients, flood.join(), memory.join())
    });
    let seconds = begin.elapsed().as_secs_f64();
    let after = counted()?;
    let mut verdicts = verdicts(lab)?;
    for (name, count) in &mut verdicts {
        *count -= verdicts_before.get(name).copied().unwrap_or(0);
    }
    let panicked = |_| anyhow!("a thread of the measurement has panicked");
    Ok(Phase {
        clients: clients??,
        seconds,
        syns: sent.map_err(panicked)???,
        received: (after.0 - before.0) / flooded,
        sent: after.1 - before.1,
        cpu: after.2.saturating_sub(before.2),
        memory: memory.map_err(panicked)?,
        verdicts,
    })
}

/// What the nodes' filters have counted, in all; nothing where no daemon runs.
fn verdicts(lab: &Lab) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut sum = BTreeMap::new();
    if !lab.spec().cluster.daemons {
        return Ok(sum);
    }
    for node in 1..=NODES {
        let stats = Client::connect(&lab.daemon_socket(node))?.stats()?;
        for (name, count) in stats.actions.into_iter().chain(stats.drops) {
            *sum.entry(name).or_default() += count;
        }
    }
    Ok(sum)
}

/// The figures of a phase, with their names.
fn figures(phase: &Phase, quiet: Option<&Phase>) -> [(&'static str, f64); 11] {
    let rate = |count: u64| count as f64 / phase.seconds;
    let share = |phase: &Phase| phase.cpu.as_secs_f64() / phase.seconds * 100.0;
    let more = quiet.map_or(0.0, |quiet| share(phase) - share(quiet)) / 100.0;
    // What the nodes' links had no room for has cost them nothing.
    let per_syn = match phase.syns {
        0 => f64::NAN,
        _ => more * phase.seconds * 1e6 / phase.received.max(1) as f64,
    };
    [
        ("SYNs/s sent", rate(phase.syns)),
        ("frames/s at a node", rate(phase.received)),
        ("frames/s from all nodes", rate(phase.sent)),
        ("requests that succeeded, %", phase.clients.success()),
        ("first byte, median, us", phase.clients.quantile(0.5)),
        ("first byte, p99, us", phase.clients.quantile(0.99)),
        ("CPU of all nodes, % of a core", share(phase)),
        ("CPU for each SYN received, all nodes, us", per_syn),
        ("half-open connections, most", phase.memory.half_open as f64),
        (
            "slab of the machine, most, MiB",
            phase.memory.slab as f64 / 1024.0,
        ),
        (
            "daemons' memory, most, MiB",
            phase.memory.daemons as f64 / 1024.0,
        ),
    ]
}

fn csv(results: &[Vec<Round>]) -> String {
    let mut raw = String::from("side,round,phase,figure,value\n");
    for (side, rounds) in SIDES.iter().zip(results) {
        for (number, round) in rounds.iter().enumerate() {
            let phases = [
                ("quiet", &round.quiet, None),
                ("flood", &round.flood, Some(&round.quiet)),
            ];
            for (name, phase, quiet) in phases {
                let mut line = |figure: &str, value: f64| {
                    let side = side.name();
                    let _ = writeln!(raw, "\"{side}\",{number},{name},\"{figure}\",{value:.3}");
                };
                for (figure, value) in figures(phase, quiet) {
                    line(figure, value);
                }
                line(
                    "TCP memory of the machine, most, pages",
                    phase.memory.tcp_pages as f64,
                );
                line("daemons' maps, KiB", round.maps as f64);
                line("requests", phase.clients.tried as f64);
                for (verdict, count) in phase.verdicts.iter().filter(|(_, count)| **count > 0) {
                    line(&format!("filter, {verdict}"), *count as f64);
                }
                for (why, count) in &phase.clients.failures {
                    line(&format!("failed, {why}"), *count as f64);
                }
            }
        }
    }
    raw
}

fn summary(results: &[Vec<Round>]) -> String {
    let mut text = String::from(
        "Medians of the rounds (and their spread), in quiet and under the flood.\n\n| |",
    );
    for side in SIDES {
        let _ = write!(text, " {}, quiet | flooded |", side.name());
    }
    text += "\n|---|";
    text += &"---|---|".repeat(SIDES.len());
    text.push('\n');
    let names = results.first().and_then(|rounds| rounds.first());
    let names = names.map_or_else(Vec::new, |round| figures(&round.flood, None).to_vec());
    for (row, (name, _)) in names.iter().enumerate() {
        let _ = write!(text, "| {name} |");
        for rounds in results {
            let quiet = rounds
                .iter()
                .map(|round| figures(&round.quiet, None)[row].1);
            let flood = rounds.iter();
            let flood = flood.map(|round| figures(&round.flood, Some(&round.quiet))[row].1);
            let _ = write!(text, " {} | {} |", cell(quiet), cell(flood));
        }
        text.push('\n');
    }
    text += "| daemons' maps, MiB |";
    for rounds in results {
        let maps = || rounds.iter().map(|round| round.maps as f64 / 1024.0);
        let _ = write!(text, " {0} | {0} |", cell(maps()));
    }
    text + "\n\n" + &failures(results)
}

/// Why requests failed, over all rounds.
fn failures(results: &[Vec<Round>]) -> String {
    let mut text =
        String::from("| side, under the flood | failed requests | why |\n|---|---|---|\n");
    for (side, rounds) in SIDES.iter().zip(results) {
        let mut all = BTreeMap::<&str, u64>::new();
        for (why, count) in rounds
            .iter()
            .flat_map(|round| &round.flood.clients.failures)
        {
            *all.entry(why).or_default() += count;
        }
        let failed: u64 = all.values().sum();
        let tried: u64 = rounds.iter().map(|round| round.flood.clients.tried).sum();
        let why: Vec<_> = all
            .iter()
            .map(|(why, count)| format!("{why} ({count})"))
            .collect();
        let _ = writeln!(
            text,
            "| {} | {failed} of {tried} | {} |",
            side.name(),
            why.join(", ")
        );
    }
    text
}

fn cell(values: impl Iterator<Item = f64>) -> String {
    let values: Vec<_> = values.filter(|value| value.is_finite()).collect();
    if values.is_empty() {
        return "-".to_owned();
    }
    let (least, most) = extremes(values.iter().copied());
    let middle = figure(median(values.iter().copied()));
    match values.len() {
        1 => middle,
        _ => format!("{middle} ({} to {})", figure(least), figure(most)),
    }
}

fn plot(results: &[Vec<Round>]) -> anyhow::Result<String> {
    let success = |phase: fn(&Round) -> &Phase| -> Vec<f64> {
        let of = |rounds: &Vec<Round>| median(rounds.iter().map(|r| phase(r).clients.success()));
        results.iter().map(of).collect()
    };
    bars(
        "Legitimate requests that succeed",
        "percent",
        &SIDES.map(Side::name),
        &[
            ("quiet", success(|round| &round.quiet)),
            ("SYN flood", success(|round| &round.flood)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_leave_out_what_is_no_number() {
        assert_eq!(cell([1.0, 3.0, 2.0].into_iter()), "2.00 (1.00 to 3.00)");
        assert_eq!(cell([f64::NAN].into_iter()), "-");
        assert_eq!(cell([150.0].into_iter()), "150");
    }
}
