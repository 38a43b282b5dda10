//! What one request, and one packet, costs.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dts_lab::{Lab, Network, Place, VIP};
use dts_node::admin::{Client, Lookup, RingQuery};
use dts_node::kernel::Filter;
use dts_node::kernel::filter::pin_path;
use etherparse::PacketBuilder;

use crate::run::Pair;

const CLIENT: Place = Place::Client(1);
const INSPECTING: Place = Place::Node(1);
const TARGET: Place = Place::Node(2);
/// How many requests of each side make a figure.
const REQUESTS: usize = 300;
/// How often a program runs for a figure.
const RUNS: u32 = 1_000_000;

/// Microseconds from a request to its answer's first byte, the medians: through the VIP, inspected by one node and
/// answered by the other, and directly. One connection at a time.
pub(crate) fn first_byte(lab: &Lab) -> anyhow::Result<Pair> {
    let address = CLIENT
        .address(Network::Front)
        .context("the client's address")?;
    let ports = ports(lab, address)?;
    let direct = TARGET
        .address(Network::Front)
        .context("the node's address")?;
    let measure = || -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let (mut ours, mut partner) = (Vec::new(), Vec::new());
        for port in ports.iter().cycle().take(REQUESTS) {
            match one(SocketAddr::from((address, *port)), VIP) {
                Ok(taken) => ours.push(taken),
                // The load before this may have left it waiting.
                Err(error) if is_in_use(&error) => continue,
                Err(error) => return Err(error),
            }
            partner.push(one(SocketAddr::from((address, 0)), direct)?);
        }
        ensure!(ours.len() > REQUESTS / 4, "no free ports");
        Ok((ours, partner))
    };
    let (mut ours, mut partner) = lab.within(CLIENT, measure)??;
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(Pair {
        ours: median(&mut ours),
        partner: median(&mut partner),
    })
}

/// Ports of the client's whose connections the one node inspects.
pub(crate) fn ports(lab: &Lab, address: Ipv4Addr) -> anyhow::Result<Vec<u16>> {
    let mut ports = Vec::new();
    for port in 10_000..10_200 {
        let query = RingQuery {
            points: false,
            lookup: Some(Lookup::Flow(SocketAddr::from((address, port)))),
        };
        let client = Client::connect(&lab.daemon_socket(1))?;
        if client
            .ring(query)?
            .owner
            .is_some_and(|o| *o.id == *INSPECTING.to_string())
        {
            ports.push(port);
        }
    }
    ensure!(!ports.is_empty(), "no port is inspected by {INSPECTING}");
    Ok(ports)
}

fn is_in_use(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|e| matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable))
}

fn one(from: SocketAddr, to: Ipv4Addr) -> anyhow::Result<f64> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect(&SocketAddr::from((to, 80)).into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // The handshake's last segment has arrived.
    std::thread::sleep(Duration::from_micros(200));
    let begin = Instant::now();
    stream.write_all(
        format!("GET /{TARGET}/1k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    stream.read_exact(&mut [0])?;
    let taken = begin.elapsed();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    Ok(taken.as_secs_f64() * 1e6)
}

/// Nanoseconds that the filter takes to drop a packet that is another node's: a bare acknowledgment, and an empty
/// program.
pub(crate) fn drop_cost(lab: &str) -> anyhow::Result<Pair> {
    let node = INSPECTING.to_string();
    let directory = format!("/sys/fs/bpf/dts-lab/{lab}-{node}");
    let pins = pin_path(Path::new(&directory), lab, &node);
    // As a daemon does that starts again: the node's own maps. Nothing is attached.
    let filter = Filter::load(&pins, 1)?;
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0x03, 0xbf, 198, 18, 0, 100])
        .ipv4([198, 18, 0, 250], VIP.octets(), 64)
        .tcp(5000, 80, 1, 1000)
        .ack(1);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[])?;
    let time = |program| -> anyhow::Result<f64> {
        Ok(filter.time(program, &frame, RUNS)?.as_nanos() as f64)
    };
    Ok(Pair {
        ours: time("front_ingress")?,
        partner: time("nothing")?,
    })
}
