//! What clients offer and what networks do to their packets, one by one from a client made by hand: what the server and the
//! client get.

use std::io::ErrorKind;
use std::time::Duration;

use dts_lab::Place;
use etherparse::{IpFragOffset, IpNumber, TcpHeader};

use crate::cluster::{CLIENT, Cluster, Method};
use crate::odd::{Odd, WAYS, request};
use crate::raw::{RawClient, Seen, Ways, syn_options};
use crate::uploads::body;

crate::cases![
    fast_open_and_multipath_are_declined,
    small_segments_and_no_scale,
    packets_that_are_too_big,
    a_client_that_reboots,
    fragments,
    frames_of_another_vlan,
];

/// Acceptance: TCP Fast Open and MPTCP in a client's SYN are declined, and the connection works.
fn fast_open_and_multipath_are_declined(method: &'static Method) {
    const FAST_OPEN: u8 = 34;
    const MULTIPATH: u8 = 30;
    let odd = Odd::up(method);
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
    odd.over();
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
fn small_segments_and_no_scale(method: &'static Method) {
    const MSS: u16 = 700;
    const TIMESTAMPS: usize = 12;
    // A cookie knows eight sizes only; the next smaller one is meant.
    let size = if method.adopts() { 536 } else { MSS };
    let odd = Odd::up(method);
    send_as_on_a_wire(&odd.cluster);
    let sysctl = "sysctl -q -w net.ipv4.tcp_rmem='4096 131072 33554432'";
    odd.cluster.sh(Place::Node(2), sysctl).unwrap();
    let route = "ip route change 198.18.2.0/24 via 198.18.0.201 dev eth0 advmss 1000";
    odd.cluster.sh(Place::Node(2), route).unwrap();
    for (inspecting, target) in [(1, 2), (2, 1), (1, 1), (2, 2)] {
        for scale in [None, Some(0), Some(14)] {
            let request = request(target, 200_000);
            let mut client = odd.client(inspecting);
            let ways = Ways {
                syn_options: syn_options(MSS, scale, &[]),
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
    odd.over();
}

/// Acceptance: a router says that packets are too big for its next link: the server's node sends smaller ones.
fn packets_that_are_too_big(method: &'static Method) {
    const MTU: u16 = 1000;
    let odd = Odd::up(method);
    send_as_on_a_wire(&odd.cluster);
    for (inspecting, target) in WAYS {
        let request = request(target, 50_000);
        let mut client = odd.client(inspecting);
        client.open(&Ways::default());
        client.say(&request);
        let lost = client.expect("a large segment", |seen| seen.packet.len() > 1400);
        let before = odd.cluster.actions(target, "icmp_error");
        client.send_ip(IpNumber::ICMP, &too_big(&lost, MTU));
        let again = client.expect("the same, smaller", |seen| {
            seen.tcp.sequence_number == lost.tcp.sequence_number
                && seen.packet.len() < lost.packet.len()
        });
        assert_eq!(again.packet.len(), usize::from(MTU));
        assert_eq!(odd.cluster.actions(target, "icmp_error"), before + 1);
        client.take(&again);
        while client.received.len() < 50_000 {
            let seen = client.expect("more", |seen| !seen.payload.is_empty());
            // What was under way already is not that size.
            client.take(&seen);
        }
        assert_eq!(client.read_response(), body(50_000));
        client.close();
        odd.assert_server_read(target, &[&request]);
        odd.cluster
            .sh(Place::Node(target), "ip route flush cache")
            .unwrap();
    }
    odd.over();
}

/// An ICMP error: fragmentation needed, next link's MTU (RFC 1191). It quotes IP header and eight bytes.
fn too_big(packet: &Seen, mtu: u16) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let mut message = vec![3, 4, 0, 0, 0, 0, high, low];
    message.extend(&packet.packet[..28]);
    let sum = message.chunks(2).fold(0u32, |sum, pair| {
        sum + u32::from(pair[0]) * 256 + u32::from(pair[1])
    });
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = !((sum >> 16) + (sum & 0xffff)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Acceptance: a client reboots in the middle of a connection and uses the same port again.
fn a_client_that_reboots(method: &'static Method) {
    let odd = Odd::up(method);
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
    odd.over();
}

/// Opens a connection as a kernel does that knows of none: what acknowledges something else is reset (RFC 9293 §3.10.7.3), and
/// the SYN repeated.
fn reopen(client: &mut RawClient) {
    for _ in 0..5 {
        client.send_syn(&Ways::default());
        while let Some(seen) = client.hear(Duration::from_secs(1)) {
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
    panic!("the new connection is not opened");
}

/// Acceptance: fragments are dropped and counted; the connection that they belong to goes on with what isn't fragmented.
fn fragments(method: &'static Method) {
    let odd = Odd::up(method);
    for (inspecting, target) in WAYS {
        let request = request(target, 3000);
        let mut client = odd.client(inspecting);
        client.open(&Ways::default());
        let dropped = |node| odd.cluster.drops(node, "fragment");
        let before: Vec<u64> = odd.cluster.nodes().map(dropped).collect();
        send_fragmented(&client, &request);
        let heard = client.hear(Duration::from_millis(200));
        assert!(heard.is_none(), "{heard:?}");
        for (node, before) in odd.cluster.nodes().zip(before) {
            assert_eq!(dropped(node), before + 2, "n{node}");
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
    odd.over();
}

/// Sends a segment in two fragments, the first with the whole TCP header.
fn send_fragmented(client: &RawClient, data: &[u8]) {
    let segment = client.whole(client.segment_at(0), data);
    let cut = 40;
    for (offset, more, part) in [(0, true, &segment[..cut]), (cut, false, &segment[cut..])] {
        let mut ip = client.ipv4(IpNumber::TCP, part.len() as u16);
        ip.dont_fragment = false;
        ip.more_fragments = more;
        ip.identification = 4711;
        ip.fragment_offset = IpFragOffset::try_new((offset / 8) as u16).unwrap();
        client.send_packet(&[&ip.to_bytes()[..], part].concat());
    }
}

/// Acceptance: frames with the tag of a VLAN that isn't the front's are another network's: nothing answers them.
fn frames_of_another_vlan(method: &'static Method) {
    let odd = Odd::up(method);
    let counted = |node| {
        let stats = odd.cluster.stats(node);
        ["syn_answered", "to_inspector", "not_owner"].map(|name| {
            let found = stats.actions.get(name).or_else(|| stats.drops.get(name));
            *found.unwrap()
        })
    };
    let before: Vec<_> = odd.cluster.nodes().map(counted).collect();
    let client = odd.client(1);
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
        let segment = client.whole(syn, &[]);
        let mut ip = client.ipv4(IpNumber::TCP, segment.len() as u16);
        ip.header_checksum = ip.calc_header_checksum();
        let [high, low] = tag.to_be_bytes();
        let destination = [&[0x03, 0xbf][..], &dts_lab::VIP.octets()].concat();
        let frame = [
            &destination[..],
            &CLIENT.mac(dts_lab::Network::Front).unwrap(),
            &[0x81, 0x00, high, low, 0x08, 0x00],
            &ip.to_bytes(),
            &segment,
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
    odd.over();
}
