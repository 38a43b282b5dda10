//! What it costs a node to drop a packet that is another node's, on the real way that packets take: bursts of a client's
//! frames to the link address that all nodes have, and the processor time of the thread that does the node's receive work.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use dts_core::addr::FlowKey;
use dts_core::segment::ACK;
use dts_core::verdict::{Action, DropReason, Verdict};
use dts_lab::{Counters, Lab, LabGuard, Network, Place, VIP};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use socket2::{Domain, Protocol, Socket, Type};

use super::{MEMBERS, receiving_spec, route_back};
use crate::cpu;
use crate::packets::{Segment, X, Y, flow, timestamps};
use crate::progress::Progress;
use crate::run::{Report, Run, extremes, figure, median};
use crate::staged::{ADOPT, NODE, Staged};

const CLIENT: Place = Place::Client(1);
/// Frames that are sent before the receiver gets a moment, and how long a moment is: below what the link holds.
const BURST: usize = 128;
const EVERY: Duration = Duration::from_micros(1000);
/// How many flows' frames are sent.
const FLOWS: usize = 2000;
/// IPPROTO_RAW: the packet comes with its IP header.
const RAW: i32 = 255;
/// `xt_cluster` as its manual has it. It needs connection tracking.
const CLUSTER: &str = "-i eth0 -m cluster --cluster-total-nodes 8 --cluster-local-node 1 \
                       --cluster-hash-seed 0xdeadbeef -j ACCEPT";

/// What drops the frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    /// IP: the address is not the node's.
    None,
    /// The same, after a program that does nothing.
    Empty,
    /// DTS's filter.
    Dts,
    /// Netfilter's rule for such clusters.
    Cluster,
}

const SIDES: [Side; 4] = [Side::None, Side::Empty, Side::Dts, Side::Cluster];

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "no filter: dropped by IP",
            Self::Empty => "an empty program, then IP",
            Self::Dts => "DTS",
            Self::Cluster => "iptables' `cluster` match (with connection tracking)",
        }
    }
}

/// The frames: their name, and what DTS makes of them.
#[derive(Clone, Copy)]
enum Kind {
    Acknowledgment,
    Syn,
}

const KINDS: [Kind; 2] = [Kind::Acknowledgment, Kind::Syn];

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Acknowledgment => "bare ACK",
            Self::Syn => "SYN",
        }
    }

    const fn dropped(self) -> Verdict {
        match self {
            Self::Acknowledgment => Verdict::Drop(DropReason::NotMine),
            Self::Syn => Verdict::Drop(DropReason::NotOwner),
        }
    }

    fn packet(self, flow: &FlowKey) -> Vec<u8> {
        let segment = match self {
            Self::Acknowledgment => Segment {
                options: timestamps(1010, 5000),
                ..Segment::of_client(flow, X + 1, Y + 1, ACK)
            },
            Self::Syn => Segment::syn(flow),
        };
        segment.packet()
    }
}

/// Measures all sides in turn, and adds them to the report.
pub(super) fn measure(
    rounds: usize,
    seconds: u32,
    run: &Run,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    progress.begin("building the lab of the receive paths");
    let lab = LabGuard::up(receiving_spec(run))?;
    route_back(&lab)?;
    let neighbour = "ip neigh replace 198.18.0.100 lladdr 03:bf:c6:12:00:64 dev eth0 nud permanent";
    lab.sh(CLIENT, neighbour)?;
    let staged = lab.within(NODE, || Staged::new(&lab, MEMBERS))??;
    let address = another_nodes_address(&lab)?;
    let thread = receive_thread(&lab)?;
    // On one processor the thread runs when the sender pauses: it gets a whole burst at once, as from a network card, and its
    // time is not that of waking up for each frame.
    pin(Pid::from_raw(thread as i32))?;
    let mut figures = vec![vec![Vec::new(); SIDES.len()]; KINDS.len()];
    let mut raw = String::from("frames,side,round,sent,received,ns_per_frame\n");
    for round in 0..rounds {
        progress.begin(format!("receive paths, round {} of {rounds}", round + 1));
        for (kind, figures) in KINDS.iter().zip(&mut figures) {
            let packets = packets(&staged, address, *kind)?;
            for (side, figures) in SIDES.iter().zip(figures.iter_mut()) {
                let burst = Burst {
                    lab: &lab,
                    staged: &staged,
                    thread,
                    packets: &packets,
                    seconds,
                };
                let (frames, ns) = burst
                    .through(*side, *kind)
                    .with_context(|| format!("{}: {}", side.name(), kind.name()))?;
                figures.push(ns);
                let (kind, side) = (kind.name(), side.name());
                let (sent, received) = frames;
                let _ = writeln!(raw, "{kind},\"{side}\",{round},{sent},{received},{ns:.1}");
            }
        }
        progress.done();
    }
    report.set_up(
        "receive paths",
        format!("bursts of {BURST} frames every {EVERY:?}, for {seconds} s, sender and receive thread on one processor"),
    );
    report.set_up(
        "xt_cluster",
        format!(
            "iptables-legacy -t mangle -A PREROUTING {CLUSTER}, and a rule that drops the rest"
        ),
    );
    report.file("receive.csv", raw);
    report.summary(&table(&figures));
    Ok(())
}

fn table(figures: &[Vec<Vec<f64>>]) -> String {
    let mut text = String::from(
        "Processor time of a node's receive thread for each frame that is another node's, in nanoseconds: everything from \
         the link to the drop. Medians of the rounds (and their spread).\n\n| |",
    );
    for kind in KINDS {
        let _ = write!(text, " {} |", kind.name());
    }
    text += "\n|---|---|---|\n";
    for (number, side) in SIDES.iter().enumerate() {
        let _ = write!(text, "| {} |", side.name());
        for figures in figures {
            let values = || figures[number].iter().copied();
            let (least, most) = extremes(values());
            let _ = write!(
                text,
                " {} ({} to {}) |",
                figure(median(values())),
                figure(least),
                figure(most)
            );
        }
        text.push('\n');
    }
    text
}

/// Packets from one address, of flows that by DTS's ring are another node's.
fn packets(staged: &Staged, address: Ipv4Addr, kind: Kind) -> anyhow::Result<Vec<Vec<u8>>> {
    let flows = (1024..u16::MAX)
        .map(|port| flow(address, port, ADOPT))
        .filter(|flow| !staged.owns(flow));
    let packets: Vec<_> = flows.take(FLOWS).map(|flow| kind.packet(&flow)).collect();
    ensure!(packets.len() == FLOWS, "too few flows are another node's");
    Ok(packets)
}

/// One side's measurement.
struct Burst<'a> {
    lab: &'a Lab,
    staged: &'a Staged,
    thread: u32,
    packets: &'a [Vec<u8>],
    seconds: u32,
}

impl Burst<'_> {
    /// Sends the frames while `side` drops them: how many were sent and received, and the processor time for each in
    /// nanoseconds.
    fn through(&self, side: Side, kind: Kind) -> anyhow::Result<((u64, u64), f64)> {
        let attach = |program| {
            let attach = || {
                self.staged
                    .filter
                    .attach_alone(program, Network::Front.interface())
            };
            self.lab.within(NODE, attach)
        };
        let link = match side {
            Side::None | Side::Cluster => None,
            Side::Empty => Some(attach("nothing")??),
            Side::Dts => Some(attach("front_ingress")??),
        };
        let rule = match side {
            Side::Cluster => Some(ClusterRule::begin(self.lab)?),
            _ => None,
        };
        let (result, grown) = self.staged.counted(|| self.send())?;
        let ((sent, received), ns) = result;
        // The link's own frames, ARP for one, are not among them.
        ensure!(
            received * 10 >= sent * 9,
            "only {received} of {sent} frames were received: the machine is too busy"
        );
        match side {
            Side::Dts => {
                let dropped = count(&grown, kind.dropped());
                let others: u64 = grown
                    .iter()
                    .filter(|(verdict, _)| *verdict != Verdict::Done(Action::Other))
                    .map(|(_, count)| count)
                    .sum();
                ensure!(
                    dropped == others && dropped * 100 >= received * 99,
                    "{dropped} of {received} frames were dropped as {}, in all {others} had a verdict",
                    kind.dropped().name()
                );
            }
            _ => ensure!(grown.is_empty(), "the filter has seen frames: {grown:?}"),
        }
        if let Some(rule) = &rule {
            let dropped = rule.dropped()?;
            ensure!(
                dropped * 100 >= received * 99,
                "the rule has dropped {dropped} of {received} frames"
            );
        }
        drop(link);
        Ok(((sent, received), ns))
    }

    /// Sends frames for the time, and waits until they have been dealt with.
    fn send(&self) -> anyhow::Result<((u64, u64), f64)> {
        let counters = || self.lab.counters(NODE, Network::Front.interface());
        let before: Counters = counters()?;
        let time = cpu::of_thread(self.thread)?;
        let sent = self
            .lab
            .within(CLIENT, || burst(self.packets, self.seconds))??;
        std::thread::sleep(Duration::from_millis(50));
        let spent = cpu::of_thread(self.thread)?.saturating_sub(time);
        let received = (counters()? - before).rx_frames;
        ensure!(received > 0, "nothing was received");
        Ok(((sent, received), spent.as_nanos() as f64 / received as f64))
    }
}

/// Has a thread, or the calling one, run on the first processor only.
fn pin(thread: Option<Pid>) -> io::Result<()> {
    let mut first = CpuSet::new();
    first.set(0);
    Ok(sched_setaffinity(thread, &first)?)
}

fn count(grown: &[(Verdict, u64)], verdict: Verdict) -> u64 {
    let found = grown.iter().find(|(grown, _)| *grown == verdict);
    found.map_or(0, |(_, count)| *count)
}

/// Sends packets in the thread's namespace, in bursts; how many.
fn burst(packets: &[Vec<u8>], seconds: u32) -> io::Result<u64> {
    pin(None)?;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
    let to = SocketAddrV4::new(VIP, 0).into();
    let begin = Instant::now();
    let mut sent = 0u64;
    let mut packets = packets.iter().cycle();
    while begin.elapsed() < Duration::from_secs(seconds.into()) {
        let next = Instant::now() + EVERY;
        for packet in packets.by_ref().take(BURST) {
            socket.send_to(packet, &to)?;
            sent += 1;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(sent)
}

/// The thread that does the node's receive work at the front.
fn receive_thread(lab: &Lab) -> anyhow::Result<u32> {
    let name = format!("napi/{}-", Network::Front.interface());
    let threads: Vec<u32> = lab
        .node_processes(NODE)?
        .into_iter()
        .filter(|pid| cpu::name(*pid).is_some_and(|comm| comm.starts_with(&name)))
        .collect();
    match threads[..] {
        [thread] => Ok(thread),
        _ => bail!("{} threads receive at the node's front", threads.len()),
    }
}

/// The rule, until dropped.
struct ClusterRule<'a>(&'a Lab);

impl<'a> ClusterRule<'a> {
    fn begin(lab: &'a Lab) -> anyhow::Result<Self> {
        let rule = Self(lab);
        let add = "iptables-legacy -t mangle -A PREROUTING";
        lab.sh(NODE, &format!("{add} {CLUSTER} && {add} -i eth0 -j DROP"))
            .context("setting the rule of `xt_cluster`")?;
        Ok(rule)
    }

    /// How many packets it has dropped.
    fn dropped(&self) -> anyhow::Result<u64> {
        let rules = self
            .0
            .sh(NODE, "iptables-legacy -t mangle -vnxL PREROUTING")?;
        let dropped = rules.lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            let packets = fields.next()?.parse().ok()?;
            (fields.nth(1) == Some("DROP")).then_some(packets)
        });
        dropped.with_context(|| format!("cannot read the rules:\n{rules}"))
    }
}

impl Drop for ClusterRule<'_> {
    fn drop(&mut self) {
        // The lab goes, too, after an error.
        let _ = self.0.sh(NODE, "iptables-legacy -t mangle -F PREROUTING");
    }
}

/// An address whose packets `xt_cluster` takes for another node's: it hashes nothing but the address.
fn another_nodes_address(lab: &Lab) -> anyhow::Result<Ipv4Addr> {
    for last in 1..50 {
        let address = Ipv4Addr::new(198, 19, 7, last);
        let rule = ClusterRule::begin(lab)?;
        let packet = [Kind::Syn.packet(&flow(address, 2000, ADOPT))];
        lab.within(CLIENT, || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
            socket.send_to(&packet[0], &SocketAddrV4::new(VIP, 0).into())
        })??;
        std::thread::sleep(Duration::from_millis(20));
        if rule.dropped()? == 1 {
            return Ok(address);
        }
    }
    bail!("no address is another node's by `xt_cluster`")
}
