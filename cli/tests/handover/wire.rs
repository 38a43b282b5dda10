//! What clients offer and what networks do to their packets, one by one from a client made by hand: what the server and the
//! client get.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dts_lab::{Family, Place};
use etherparse::checksum::Sum16BitWords;
use etherparse::{Icmpv6Header, Icmpv6Type, IpNumber, TcpHeader};

use crate::client::PATIENCE;
use crate::cluster::{CLIENT, Cluster, Method, family, vip};
use crate::extension;
use crate::odd::{Odd, Step, WAYS, in_turn, request, steps};
use crate::raw::{RawClient, Seen, Ways, syn_options};
use crate::uploads::body;

crate::cases![packets_in_turn];

const STEPS: &[Step] = steps![
    fast_open_and_multipath_are_declined,
    a_client_that_reboots,
    fragments,
    frames_of_another_vlan,
    // These change how the nodes send.
    packets_that_are_too_big,
    small_segments_and_no_scale,
];

fn packets_in_turn(method: &'static Method) {
    let of_ipv6 = match family() {
        Family::V4 => &[],
        Family::V6 => extension::STEPS,
    };
    in_turn(method, &[of_ipv6, STEPS]);
}

/// Acceptance: TCP Fast Open and MPTCP in a client's SYN are declined, and the connection works.
fn fast_open_and_multipath_are_declined(odd: &Odd) {
    const FAST_OPEN: u8 = 34;
    const MULTIPATH: u8 = 30;
    let cookie = [&[1, 1, FAST_OPEN, 10][..], &[7; 8]].concat();
    let offers: [&[u8]; 3] = [
        // The wish for a cookie, a cookie, and MP_CAPABLE of version 1 (RFC 8684 §3.1).
        &[1, 1, FAST_OPEN, 2],
        &cookie,
        &[MULTIPATH, 4, 1, 1],
    ];
    for (inspecting, target) in WAYS {
        for offer in offers {
            for with_data in [false, true] {
                let request = request(target, 3000);
                let mut client = odd.client(inspecting);
                let ways = Ways {
                    syn_options: syn_options(1460, Some(7), offer),
                    syn_data: if with_data {
                        request.clone()
                    } else {
                        Vec::new()
                    },
                    ..Ways::default()
                };
                // Nothing of the SYN's data is acknowledged.
                let syn_ack = client.open(&ways);
                let kinds = kinds(&syn_ack);
                assert!(
                    !kinds.contains(&FAST_OPEN) && !kinds.contains(&MULTIPATH),
                    "{kinds:?}"
                );
                client.say(&request);
                assert_eq!(client.read_response(), body(3000));
                client.close();
                odd.assert_server_read(target, &[&request]);
            }
        }
    }
}

/// The kinds of a segment's options.
fn kinds(seen: &Seen) -> Vec<u8> {
    let mut kinds = Vec::new();
    let mut rest = seen.tcp.options.as_slice();
    while let Some(kind) = rest.first() {
        kinds.push(*kind);
        let len = if *kind < 2 {
            1
        } else {
            usize::from(*rest.get(1).unwrap_or(&1))
        };
        rest = rest.get(len.max(1)..).unwrap_or_default();
    }
    kinds
}

/// Has a place's interfaces send segments of their real size, as they are on a wire.
fn send_as_on_a_wire(cluster: &Cluster) {
    for place in cluster.spec().node_places().chain([CLIENT]) {
        for interface in ["eth0", "eth1"] {
            let off = format!("ethtool -K {interface} tso off gso off gro off");
            if place != CLIENT || interface == "eth0" {
                cluster.sh(place, &off).unwrap();
            }
        }
    }
}

/// Acceptance: a client that takes small segments only, and no window scale, with nodes whose own scales and sizes differ.
fn small_segments_and_no_scale(odd: &Odd) {
    const TIMESTAMPS: usize = 12;
    // A cookie knows eight sizes only; the next smaller one is meant. Over IPv6 the kernel makes no socket of less than the
    // last of these, which every link takes.
    let (sizes, adopted) = match family() {
        Family::V4 => ([700u16; 3], 536u16),
        Family::V6 => ([700, 1250, 1250], 1220),
    };
    send_as_on_a_wire(&odd.cluster);
    let sysctl = "sysctl -q -w net.ipv4.tcp_rmem='4096 131072 33554432'";
    odd.cluster.sh(Place::Node(2), sysctl).unwrap();
    let route = match family() {
        Family::V4 => "ip route change 198.18.2.0/24 via 198.18.0.201 dev eth0 advmss 1000",
        Family::V6 => {
            "ip route change 2001:db8:0:2::/64 via 2001:db8::201 dev eth0 onlink advmss 1000"
        }
    };
    odd.cluster.sh(Place::Node(2), route).unwrap();
    for (inspecting, target) in [(1, 2), (2, 1), (1, 1), (2, 2)] {
        for (scale, mss) in [None, Some(0), Some(14)].into_iter().zip(sizes) {
            let size = if odd.adopts { adopted } else { mss };
            let request = request(target, 200_000);
            let mut client = odd.client(inspecting);
            let ways = Ways {
                syn_options: syn_options(mss, scale, &[]),
                window: 20_000,
                ..Ways::default()
            };
            client.open(&ways);
            if scale == Some(14) {
                client.window = 2;
            }
            client.say(&request);
            let mut longest = 0;
            while client.received.len() < 200_000 {
                let seen = client.expect("more", |seen| !seen.payload.is_empty());
                longest = longest.max(seen.payload.len());
                let ahead = seen.tcp.sequence_number.wrapping_sub(client.expected) as usize;
                assert!(
                    ahead + seen.payload.len() <= 32_768 || ahead > 1 << 31,
                    "beyond the window: {ahead}"
                );
                client.take(&seen);
            }
            assert_eq!(longest, usize::from(size) - TIMESTAMPS);
            assert_eq!(client.read_response(), body(200_000));
            client.close();
            odd.assert_server_read(target, &[&request]);
        }
    }
}

/// Acceptance: a router says that packets are too big for its next link: the server's node sends smaller ones.
fn packets_that_are_too_big(odd: &Odd) {
    // No IPv6 link takes less than 1280 bytes: what says so is believed by no kernel.
    let (mtus, mtu): (&[u16], u16) = match family() {
        Family::V4 => (&[1300], 1300),
        Family::V6 => (&[1000, 1300], 1300),
    };
    send_as_on_a_wire(&odd.cluster);
    for (inspecting, target) in WAYS {
        let request = request(target, 50_000);
        let mut client = odd.client(inspecting);
        client.open(&Ways::default());
        client.say(&request);
        let lost = client.expect("a large segment", |seen| seen.packet.len() > 1400);
        let before = odd.cluster.actions(target, "icmp_error");
        for mtu in mtus {
            let (protocol, message) = too_big(&client, &lost, *mtu);
            client.send_ip(protocol, &message);
        }
        let again = client.expect("the same, smaller", |seen| {
            seen.tcp.sequence_number == lost.tcp.sequence_number
                && seen.packet.len() < lost.packet.len()
        });
        assert_eq!(again.packet.len(), usize::from(mtu));
        let after = odd.cluster.actions(target, "icmp_error");
        assert_eq!(after, before + mtus.len() as u64);
        client.take(&again);
        // What was under way already is not that size.
        assert_eq!(client.read_response(), body(50_000));
        client.say(&request);
        while client.received.len() < 50_000 {
            let seen = client.expect("more", |seen| !seen.payload.is_empty());
            assert!(seen.packet.len() <= usize::from(mtu), "{:?}", seen.tcp);
            client.take(&seen);
        }
        assert_eq!(client.read_response(), body(50_000));
        client.close();
        odd.assert_server_read(target, &[&request, &request]);
        let forget = match family() {
            Family::V4 => "ip route flush cache",
            Family::V6 => "ip -6 route flush cache",
        };
        odd.cluster.sh(Place::Node(target), forget).unwrap();
    }
}

/// An ICMP error about a packet: it is too big for the next link, whose MTU is this.
fn too_big(client: &RawClient, packet: &Seen, mtu: u16) -> (IpNumber, Vec<u8>) {
    /// What an error may have of the packet in IPv6's least MTU (RFC 4443 §3.2).
    const MOST: usize = 1280 - 40 - 8;
    let IpAddr::V6(from) = client.local.ip() else {
        return (IpNumber::ICMP, fragmentation_needed(packet, mtu));
    };
    let kind = Icmpv6Type::PacketTooBig { mtu: mtu.into() };
    let to = packet.packet[8..24].try_into().unwrap();
    let quoted = &packet.packet[..packet.packet.len().min(MOST)];
    let header = Icmpv6Header::with_checksum(kind, from.octets(), to, quoted).unwrap();
    let message = [&header.to_bytes()[..], quoted].concat();
    (IpNumber::IPV6_ICMP, message)
}

/// An ICMP error: fragmentation needed, next link's MTU (RFC 1191). It quotes IP header and eight bytes.
fn fragmentation_needed(packet: &Seen, mtu: u16) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let mut message = vec![3, 4, 0, 0, 0, 0, high, low];
    message.extend(&packet.packet[..28]);
    let sum = Sum16BitWords::new().add_slice(&message).ones_complement();
    message[2..4].copy_from_slice(&sum.to_ne_bytes());
    message
}

/// Acceptance: a client reboots in the middle of a connection and uses the same port again.
fn a_client_that_reboots(odd: &Odd) {
    for (inspecting, target) in WAYS {
        for next_target in odd.cluster.nodes() {
            let request_before = request(target, 100);
            let mut client = odd.client(inspecting);
            client.open(&Ways::default());
            client.say(&request_before);
            assert_eq!(client.read_response(), body(100));

            let mut client = client.rebooted(&odd.cluster);
            reopen(&mut client);
            let request = request(next_target, 3000);
            client.say(&request);
            assert_eq!(client.read_response(), body(3000));
            // The server that had the first one learns that it is over.
            let old = odd.servers[usize::from(target) - 1].result();
            let reset = Err(ErrorKind::ConnectionReset);
            assert_eq!(old, reset, "n{target}, then n{next_target}");
            client.close();
            odd.assert_server_read(next_target, &[&request]);
        }
    }
}

/// Opens a connection as a kernel does that knows of none: what acknowledges something else is reset (RFC 9293 §3.10.7.3), and
/// the SYN repeated.
fn reopen(client: &mut RawClient) {
    /// A kernel would wait for a second.
    const BETWEEN_SYNS: Duration = Duration::from_millis(200);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        client.send_syn(&Ways::default());
        while let Some(seen) = client.hear(BETWEEN_SYNS) {
            if seen.tcp.acknowledgment_number != client.next {
                let reset = TcpHeader {
                    sequence_number: seen.tcp.acknowledgment_number,
                    rst: true,
                    ..TcpHeader::default()
                };
                client.send(reset, &[]);
            } else if seen.tcp.syn && seen.tcp.ack {
                client.take_syn_ack(&seen);
                client.send(client.segment(), &[]);
                return;
            }
        }
    }
    panic!("not within {PATIENCE:?}: the new connection");
}

/// Acceptance: fragments are dropped and counted; the connection that they belong to goes on with what isn't fragmented.
fn fragments(odd: &Odd) {
    for (inspecting, target) in WAYS {
        let request = request(target, 3000);
        let mut client = odd.client(inspecting);
        client.open(&Ways::default());
        let dropped = |node| odd.cluster.drops(node, "fragment");
        let before: Vec<u64> = odd.cluster.nodes().map(dropped).collect();
        let sent = send_fragmented(&client, &request);
        let heard = client.hear(Duration::from_millis(200));
        assert!(heard.is_none(), "{heard:?}");
        for (node, before) in odd.cluster.nodes().zip(before) {
            assert_eq!(dropped(node), before + sent, "n{node}");
        }
        client.say(&request);
        assert_eq!(client.read_response(), body(3000));
        // The same in the middle of the connection.
        send_fragmented(&client, b"and more of it, twenty bytes at the least");
        let heard = client.hear(Duration::from_millis(200));
        assert!(heard.is_none(), "{heard:?}");
        client.close();
        odd.assert_server_read(target, &[&request]);
    }
}

/// Sends a segment in fragments, in several ways; how many these were.
fn send_fragmented(client: &RawClient, data: &[u8]) -> u64 {
    let segment = client.whole(client.segment_at(0), data);
    let end = segment.len();
    let ways = [
        // The whole TCP header, and the rest; the same in the wrong order.
        [0..40, 40..end],
        [40..end, 0..40],
        // They overlap (RFC 5722).
        [0..48, 40..end],
        // The first one has the ports and little else (RFC 7112).
        [0..8, 8..end],
    ];
    for part in ways.iter().flatten() {
        client.send_fragment(&segment, part.clone());
    }
    2 * ways.len() as u64
}

/// Acceptance: frames with the tag of a VLAN that isn't the front's are another network's: nothing answers them.
fn frames_of_another_vlan(odd: &Odd) {
    let counted = |node| {
        let stats = odd.cluster.stats(node);
        ["syn_answered", "to_inspector", "not_owner"].map(|name| {
            let found = stats.actions.get(name).or_else(|| stats.drops.get(name));
            *found.unwrap()
        })
    };
    let client = odd.client(1);
    let before: Vec<_> = odd.cluster.nodes().map(counted).collect();
    // Tag 7, and the tag 0 of frames that have a priority only.
    for (tag, answered) in [(7u16, false), (0, true)] {
        let mut syn = TcpHeader {
            sequence_number: client.isn,
            syn: true,
            window_size: 64_000,
            ..TcpHeader::default()
        };
        syn.set_options_raw(&syn_options(1460, Some(7), &[]))
            .unwrap();
        let packet = client.packet(IpNumber::TCP, &client.whole(syn, &[]));
        let [high, low] = tag.to_be_bytes();
        let (kind, address) = match vip(0).ip() {
            IpAddr::V4(vip) => ([0x08, 0x00], vip.octets()),
            IpAddr::V6(vip) => ([0x86, 0xdd], *vip.octets().last_chunk().unwrap()),
        };
        let frame = [
            &[0x03, 0xbf][..],
            &address,
            &CLIENT.mac(dts_lab::Network::Front).unwrap(),
            &[0x81, 0x00, high, low],
            &kind,
            &packet,
        ]
        .concat();
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let script = format!(
            "python3 -c \"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); \
             s.bind(('eth0', 0)); s.send(bytes.fromhex('{hex}'))\""
        );
        odd.cluster.sh(CLIENT, &script).unwrap();
        let heard = client.hear(Duration::from_millis(500));
        assert_eq!(heard.is_some(), answered, "tag {tag}: {heard:?}");
        if !answered {
            let after: Vec<_> = odd.cluster.nodes().map(counted).collect();
            assert_eq!(after, before, "tag {tag}");
        }
    }
    // Its connection is not opened any further.
    let reset = TcpHeader {
        sequence_number: client.isn.wrapping_add(1),
        rst: true,
        ..TcpHeader::default()
    };
    client.send(reset, &[]);
}
