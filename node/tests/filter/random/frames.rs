//! Frames that could be real, and what becomes of them when something goes wrong.

use super::*;
use crate::bench::now;

/// A frame for a program, and its mark: one that could be real, most of the time changed.
pub(super) fn any_frame(rng: &mut fastrand::Rng) -> (&'static str, u32, Vec<u8>) {
    let (mut program, mut mark, mut frame) = match rng.u8(0..15) {
        0..4 => ("front_ingress", 0, from_client(rng)),
        4..6 => ("front_egress", 0, from_server(rng)),
        6..9 => ("back_ingress", 0, from_peer(rng)),
        9 => ("back_egress", 0, to_peer(rng)),
        _ => shop::any_frame(rng),
    };
    if rng.u8(..) < 10 {
        program = PROGRAMS[rng.usize(..4)];
    }
    if rng.u8(..) < 4 {
        mark = MARKS[rng.usize(..MARKS.len())];
    }
    if rng.bool() {
        mutate(rng, &mut frame);
        if rng.bool() {
            mend(&mut frame);
        }
    }
    lengthen(&mut frame);
    (program, mark, frame)
}

/// Newer kernels take no frame for BPF_PROG_TEST_RUN whose EtherType promises a header that isn't there;
/// what follows that header may be as short as it likes.
fn lengthen(frame: &mut Vec<u8>) {
    let least = match frame[12..14] {
        [0x08, 0x00] => ETH + 20,
        [0x86, 0xdd] => ETH + 40,
        _ => ETH + 1,
    };
    frame.resize(frame.len().max(least), 0);
}

/// Flips bits, overwrites bytes, cuts off or extends.
fn mutate(rng: &mut fastrand::Rng, frame: &mut Vec<u8>) {
    // The kernel takes no frame with nothing after its Ethernet header.
    const LEAST: usize = ETH + 1;
    for _ in 0..rng.u8(1..5) {
        // Headers are where it matters; the Ethernet header is changed too, but seldom.
        let from = if rng.u8(..) < 20 { 0 } else { ETH };
        let at = rng.usize(from..frame.len().clamp(LEAST, 120));
        match rng.u8(0..8) {
            0..4 => frame[at] ^= 1 << rng.u8(0..8),
            4 => frame[at] = rng.u8(..),
            5 => frame[at] = *rng.choice(&[0, 1, 2, 4, 5, 8, 253, 255]).expect("some"),
            6 => frame.truncate(rng.usize(LEAST..=frame.len())),
            _ => frame.extend(
                (0..rng.usize(1..60))
                    .map(|_| rng.u8(..))
                    .collect::<Vec<_>>(),
            ),
        }
    }
}

/// A port of a flow that has an entry, or of one that has none.
fn some_flow(rng: &mut fastrand::Rng) -> (u16, FlowKey) {
    if rng.u8(..) < 30 {
        return (0, flow(rng.u16(1024..FIRST_OWN), WEB));
    }
    let i = rng.u16(..FLOWS);
    (i, nth(i))
}

/// A number near one that a connection began with.
pub(super) fn near(rng: &mut fastrand::Rng, isn: u32) -> u32 {
    match rng.u8(0..4) {
        0 => isn,
        1 => isn.wrapping_add(1),
        2 => isn.wrapping_add(rng.u32(..200)),
        _ => rng.u32(..),
    }
}

/// Options as they come in established connections, at even and at odd offsets.
pub(super) fn some_options(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut options = match rng.u8(0..6) {
        0 => vec![],
        1 | 2 => timestamps(rng.u32(..), rng.u32(..)),
        // Timestamps and then SACK blocks.
        3 => {
            let mut options = timestamps(rng.u32(..), rng.u32(..));
            let blocks = rng.u8(1..=3);
            options.extend([1, 1, 5, 2 + 8 * blocks]);
            options.extend((0..8 * blocks).map(|_| rng.u8(..)));
            options
        }
        // The same at odd offsets.
        4 => {
            let mut options = vec![1];
            options.extend(&timestamps(rng.u32(..), rng.u32(..))[2..]);
            options.extend([5, 10]);
            options.extend((0..8).map(|_| rng.u8(..)));
            options
        }
        _ => (0..rng.usize(0..=40)).map(|_| rng.u8(..)).collect(),
    };
    while options.len() % 4 != 0 {
        options.push(u8::from(rng.bool()));
    }
    options.truncate(40);
    options
}

pub(super) fn some_flags(rng: &mut fastrand::Rng) -> u8 {
    match rng.u8(0..8) {
        0..4 => ACK,
        4 => FIN | ACK,
        5 => RST,
        6 => *rng.choice(&[SYN | ACK, RST | ACK, FIN, SYN]).expect("some"),
        _ => rng.u8(..),
    }
}

/// Adds options, data and now and then IP options to a segment.
fn filled(rng: &mut fastrand::Rng, segment: Tcp) -> Vec<u8> {
    let payload = match rng.u8(0..4) {
        0 | 1 => 0,
        2 => rng.usize(1..40),
        _ => rng.usize(1..1400),
    };
    let options = if segment.options.is_empty() {
        some_options(rng)
    } else {
        segment.options.clone()
    };
    Tcp {
        options,
        payload: vec![rng.u8(..); payload],
        ..with_ip_options(rng, segment)
    }
    .frame()
}

pub(super) fn with_ip_options(rng: &mut fastrand::Rng, segment: Tcp) -> Tcp {
    if rng.u8(..) < 16 && segment.ip_options.is_empty() {
        let ip_options = vec![1; 4 * rng.usize(1..=10)];
        return Tcp {
            ip_options,
            ..segment
        };
    }
    segment
}

fn from_client(rng: &mut fastrand::Rng) -> Vec<u8> {
    let (_, flow) = some_flow(rng);
    let seq = near(rng, X);
    let ack = near(rng, Y);
    match rng.u8(0..20) {
        0..4 => {
            let seq = near(rng, X);
            let syn = Tcp { seq, ..syn(&flow) };
            with_ip_options(rng, syn).frame()
        }
        4..10 => {
            let flags = some_flags(rng);
            filled(rng, client(&flow, seq, ack, flags))
        }
        10 => {
            let port = *rng.choice(&[MAIL, INSPECTOR, 443]).expect("some");
            let flow = FlowKey {
                local_port: port,
                ..flow
            };
            let flags = *rng.choice(&[SYN, ACK]).expect("some");
            filled(rng, client(&flow, seq, ack, flags))
        }
        11 if World::present().clients_v6 => some_solicitation(rng),
        11 => some_arp(rng, CLIENT_MAC),
        12 => {
            let kind = if World::present().clients_v6 { 128 } else { 8 };
            some_icmp(rng, CLIENT, VIP, kind, &[1; 56])
        }
        13 | 14 => {
            let from = server(&flow, near(rng, Y), 0, ACK);
            let kinds = if World::present().clients_v6 {
                [1, 2, 3, 0]
            } else {
                [3, 11, 12, 0]
            };
            let kind = *rng.choice(&kinds).expect("some");
            some_icmp(rng, [198, 18, 0, 1], VIP, kind, &from.frame()[ETH..])
        }
        15 => some_fragment(rng, client(&flow, seq, ack, ACK)),
        16 => Tcp {
            src: (STRANGER, flow.remote_port),
            dst: (OWN, HANDOVER),
            ..client(&flow, seq, ack, SYN)
        }
        .frame(),
        17 => vlan(client(&flow, seq, ack, SYN)),
        18 => ipv6(rng),
        _ => garbage(rng),
    }
}

fn from_server(rng: &mut fastrand::Rng) -> Vec<u8> {
    let (_, flow) = some_flow(rng);
    let port = *rng
        .choice(&[WEB, WEB, WEB, INSPECTOR, INSPECTOR, MAIL, 443])
        .expect("some");
    let flow = FlowKey {
        local_port: port,
        ..flow
    };
    let isn = if port == INSPECTOR { Y } else { W };
    let (seq, ack) = (near(rng, isn), near(rng, X));
    match rng.u8(0..10) {
        0 => {
            let mut options = syn(&flow).options;
            options[19] = rng.u8(..16);
            Tcp {
                options,
                ..server(&flow, seq, X.wrapping_add(1), SYN | ACK)
            }
            .frame()
        }
        1..8 => {
            let flags = some_flags(rng);
            filled(rng, server(&flow, seq, ack, flags))
        }
        8 => some_arp(rng, FRONT_MAC),
        _ => garbage(rng),
    }
}

fn from_peer(rng: &mut fastrand::Rng) -> Vec<u8> {
    let (i, flow) = some_flow(rng);
    let port = FIRST_PEER + i;
    let from = if rng.u8(..) < 10 { STRANGER } else { PEER };
    match rng.u8(0..12) {
        0..3 => {
            let mut o = option(&flow);
            match rng.u8(0..6) {
                0 => o.made = now().wrapping_sub(rng.u32(..1 << 17)),
                1 => o.service = rng.u16(..),
                2 => o.server_isn = Seq(rng.u32(..)),
                _ => {}
            }
            let key = if rng.u8(..) < 50 { [0; 16] } else { KEY };
            with_ip_options(rng, handover_syn(&o, from, port, key)).frame()
        }
        3..7 => {
            let (seq, ack) = (near(rng, X), near(rng, Y));
            let flags = some_flags(rng);
            let segment = Tcp {
                reserved: if rng.bool() { REQUEST_END_BIT } else { 0 },
                ..peer(port, from, seq, ack, flags)
            };
            filled(rng, segment)
        }
        7..9 => {
            let (seq, ack) = (near(rng, Y), near(rng, X));
            let flags = some_flags(rng);
            let reply = Tcp {
                to: BACK_MAC,
                from: PEER_MAC,
                ..own(FIRST_OWN + i, seq, ack, flags).reversed()
            };
            filled(rng, reply)
        }
        9 => {
            let key = if rng.bool() { KEY } else { [0; 16] };
            released(&flow, near(rng, X), key).frame()
        }
        10 => some_fragment(rng, peer(port, from, X, Y, ACK)),
        _ => garbage(rng),
    }
}

fn to_peer(rng: &mut fastrand::Rng) -> Vec<u8> {
    let (i, flow) = some_flow(rng);
    let port = FIRST_OWN + i;
    match rng.u8(0..8) {
        0 | 1 => {
            let mut options = syn(&flow).options;
            options.truncate(*rng.choice(&[0, 4, 16, 20]).expect("some"));
            let syn = Tcp {
                options,
                ..own(port, rng.u32(..), 0, SYN)
            };
            with_ip_options(rng, syn).frame()
        }
        2..7 => {
            let (seq, ack) = (rng.u32(..), near(rng, Y));
            let flags = some_flags(rng);
            filled(rng, own(port, seq, ack, flags))
        }
        _ => garbage(rng),
    }
}

fn packet(to: Mac, from: Mac, src: [u8; 4], dst: [u8; 4], protocol: u8) -> Ip {
    Ip {
        to,
        from,
        src,
        dst,
        options: vec![],
        protocol,
        fragment: 0,
        payload: vec![],
    }
}

fn some_arp(rng: &mut fastrand::Rng, from: Mac) -> Vec<u8> {
    let operation = rng.u16(0..4);
    let sender = *rng.choice(&[CLIENT, VIP, OWN]).expect("some");
    let target = *rng.choice(&[CLIENT, VIP, OWN]).expect("some");
    arp([0xff; 6], from, operation, (from, sender), ([0; 6], target))
}

fn some_icmp(
    rng: &mut fastrand::Rng,
    src: [u8; 4],
    dst: [u8; 4],
    kind: u8,
    rest: &[u8],
) -> Vec<u8> {
    let mut frame = Ip {
        payload: icmp(kind, rng.u8(0..5), [0, 0, 5, 0xdc], rest),
        ..packet(VIP_MAC, CLIENT_MAC, src, dst, 1)
    }
    .frame();
    mend(&mut frame);
    frame
}

/// A question for an address's link address.
fn some_solicitation(rng: &mut fastrand::Rng) -> Vec<u8> {
    let target = *rng.choice(&[CLIENT, VIP, OWN]).expect("some");
    let (client, target) = (addr(CLIENT).bytes16(), addr(target).bytes16());
    let src = if rng.bool() { client } else { [0; 16] };
    let dst = if rng.bool() { target } else { [0xff; 16] };
    let kind = *rng.choice(&[135, 135, 136]).expect("some");
    let link = (1, CLIENT_MAC);
    neighbour((VIP_MAC, CLIENT_MAC), (src, dst), (kind, 0), target, link)
}

/// A fragment of a segment: the first one, a later one, nonsense, or (IPv6) all of it.
fn some_fragment(rng: &mut fastrand::Rng, segment: Tcp) -> Vec<u8> {
    let field = *rng
        .choice(&[0, 0x2000, 0x2001, 0x0001, 0x1fff])
        .expect("some");
    fragment(segment.frame(), field)
}

/// The segment's frame with an 802.1Q tag.
fn vlan(segment: Tcp) -> Vec<u8> {
    let mut frame = segment.frame();
    frame.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    frame
}

fn ipv6(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut frame = [&VIP_MAC[..], &CLIENT_MAC[..], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend([0, 20, 6, 64]);
    frame.extend([0x20, 0x01, 0x0d, 0xb8]);
    frame.extend((0..48).map(|_| rng.u8(..)).collect::<Vec<_>>());
    frame
}

fn garbage(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..rng.usize(ETH + 1..200)).map(|_| rng.u8(..)).collect();
    let known = [[0x08, 0x00], [0x08, 0x06], [0x86, 0xdd]];
    if let Some(ethertype) = rng.choice(&known) {
        frame[12..14].copy_from_slice(ethertype);
    }
    frame
}
