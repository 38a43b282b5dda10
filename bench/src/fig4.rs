//! The paper's Fig. 4 (§2.2): one handover, segment by segment, by splice and by adoption.

mod diagram;
mod sequence;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use dts_lab::{
    Capture, ClusterSpec, FileSet, Lab, LabError, LabGuard, LabSpec, Network, Place, Segment, VIP,
};

use self::sequence::Sequence;
use crate::progress::Progress;
use crate::run::{Report, Run, extremes, figure, median};
use crate::small;

const CLIENT: Place = Place::Client(1);
const INSPECTING: Place = Place::Node(1);
const PROCESSING: Place = Place::Node(2);
const METHODS: [&str; 2] = ["splice", "adopt"];
const BODY: u64 = 1000;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Handovers of each kind. The first is drawn, all are counted.
    #[arg(long, default_value_t = 20)]
    handovers: usize,
}

/// What was seen of one handover.
struct Seen {
    sequence: Sequence,
    /// From the request to the answer's first byte, both at the client's interface.
    first_byte: Duration,
}

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    let handovers = if run.quick { 5 } else { options.handovers };
    ensure!((1..=50).contains(&handovers), "1 to 50 handovers");
    let mut report = Report::new("fig4");
    report.set_up("handovers of each kind", handovers);
    report.set_up(
        "response",
        format!("{BODY} bytes from {PROCESSING}, on a connection that {INSPECTING} inspects"),
    );
    let progress = Progress::new("fig4", METHODS.len());
    let mut raw =
        String::from("method,handover,between_nodes,from_client,to_client,first_byte_us\n");
    let mut table = String::from(
        "Segments of one request on a connection of its own, and microseconds from the request to the answer's first byte \
         at the client's interface, while all interfaces are captured; medians (and spread).\n\n\
         | | handovers | between the nodes | from the client | to the client | first byte, us |\n|---|---|---|---|---|---|\n",
    );
    for method in METHODS {
        progress.begin(method);
        let seen = handovers_by(method, handovers, run, &mut report)
            .with_context(|| format!("handing over by {method}"))?;
        let first = seen.first().context("no handover")?;
        report.file(&format!("{method}.txt"), diagram::text(&first.sequence));
        report.file(&format!("{method}.svg"), diagram::svg(&first.sequence));
        add(method, &seen, &mut raw, &mut table);
        progress.done();
    }
    drop(progress);
    report.packages(&["nginx-light", "tcpdump"]);
    report.file("raw.csv", raw);
    report.summary(&table);
    report.summary(
        "`splice.txt`, `splice.svg`, `adopt.txt` and `adopt.svg` show the first handover of each kind. A client's segment \
         reaches all nodes; the arrow leads to the one that takes it.",
    );
    report.finish(run)
}

/// Counts the handovers of one kind.
fn add(method: &str, seen: &[Seen], raw: &mut String, table: &mut String) {
    let mut columns = vec![Vec::new(); 4];
    for (number, seen) in seen.iter().enumerate() {
        let sequence = &seen.sequence;
        let us = seen.first_byte.as_secs_f64() * 1e6;
        let counts = [
            sequence.between_nodes(),
            sequence.by_client(),
            sequence.to_client(),
        ];
        let [between, from, to] = counts;
        let _ = writeln!(raw, "{method},{number},{between},{from},{to},{us:.1}");
        for (column, count) in columns.iter_mut().zip(counts) {
            column.push(count as f64);
        }
        columns[3].push(us);
    }
    let _ = write!(table, "| {method} | {} |", seen.len());
    for column in columns {
        let values = || column.iter().copied();
        let (least, most) = extremes(values());
        let _ = write!(
            table,
            " {} ({} to {}) |",
            figure(median(values())),
            figure(least),
            figure(most)
        );
    }
    table.push('\n');
}

/// Has requests handed over and captured, and keeps the captures in the report.
fn handovers_by(
    method: &str,
    count: usize,
    run: &Run,
    report: &mut Report,
) -> anyhow::Result<Vec<Seen>> {
    let mut spec = LabSpec::new("small", 2, &run.dts);
    spec.cluster.services_toml = Some(ClusterSpec::services(2, method));
    let lab = LabGuard::up(spec)?;
    let mut files = FileSet::new(4);
    files.add(format!("{PROCESSING}/fig4"), BODY)?;
    lab.publish(&[PROCESSING], &files)?;
    let body = files.files()[0].bytes();
    let address = CLIENT
        .address(Network::Front)
        .context("the client's address")?;
    let ports = small::ports(&lab, address)?;
    ensure!(
        ports.len() >= count,
        "only {} ports are inspected by {INSPECTING}",
        ports.len()
    );
    let clients: Vec<_> = ports
        .iter()
        .take(count)
        .map(|port| SocketAddr::from((address, *port)))
        .collect();
    let captures = capture_all(&lab)?;
    for client in &clients {
        lab.within(CLIENT, || get(*client, &body))??;
    }
    // The last connection's end.
    thread::sleep(Duration::from_millis(300));
    let mut segments = Vec::new();
    for (name, capture) in captures {
        let file = capture.file().to_owned();
        segments.extend(capture.stop()?);
        let bytes =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        report.bytes(&format!("{method}-{name}.pcap"), bytes);
    }
    clients
        .iter()
        .map(|client| seen(method, *client, &segments))
        .collect()
}

/// What the captures say of one connection; fails unless one node has inspected it, and the other answered.
fn seen(method: &str, client: SocketAddr, segments: &[Segment]) -> anyhow::Result<Seen> {
    let sequence = match method {
        "splice" => Sequence::of_splice(segments, client)?,
        _ => Sequence::of_adoption(segments, client)?,
    };
    ensure!(
        (sequence.inspecting, sequence.processing) == (INSPECTING, PROCESSING),
        "{client} was inspected by {} and processed by {}",
        sequence.inspecting,
        sequence.processing
    );
    let at_client = |from_client: bool| {
        segments
            .iter()
            .filter(|s| s.place == CLIENT && !s.payload.is_empty())
            .filter(|s| {
                if from_client {
                    s.source == client
                } else {
                    s.destination == client
                }
            })
            .map(|s| s.time)
            .min()
    };
    let request = at_client(true).context("no request was captured")?;
    let answer = at_client(false).context("no answer was captured")?;
    Ok(Seen {
        sequence,
        first_byte: answer.saturating_sub(request),
    })
}

/// Captures at all interfaces, which start together: each takes a moment.
fn capture_all(lab: &Lab) -> anyhow::Result<Vec<(String, Capture)>> {
    let places = Network::ALL.into_iter().flat_map(|network| {
        let ports = lab.spec().ports(network);
        ports.into_iter().map(move |place| (place, network))
    });
    let captures: Result<Vec<_>, LabError> = thread::scope(|scope| {
        let started: Vec<_> = places
            .map(|(place, network)| {
                let start = move || lab.capture(place, network.interface(), "tcp");
                (format!("{place}-{network}"), scope.spawn(start))
            })
            .collect();
        started
            .into_iter()
            .map(|(name, thread)| match thread.join() {
                Ok(capture) => Ok((name, capture?)),
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });
    Ok(captures?)
}

/// A request from a port of the client's, for the other node's file, which must come whole.
fn get(from: SocketAddr, body: &[u8]) -> anyhow::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect(&SocketAddr::from((VIP, 80)).into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // The handshake's last segment is away: the ladder is to be read in order.
    thread::sleep(Duration::from_millis(2));
    let request =
        format!("GET /{PROCESSING}/fig4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    let end = response.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.context("the answer has no head")?;
    let head = String::from_utf8_lossy(&response[..end]);
    ensure!(
        head.starts_with("HTTP/1.1 200") && head.contains(&format!("X-DTS-Node: {PROCESSING}")),
        "not the answer of {PROCESSING}: {head}"
    );
    ensure!(
        response[end + 4..] == *body,
        "the answer's body is not the file"
    );
    Ok(())
}
