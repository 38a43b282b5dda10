//! What only IPv6 packets have, one by one from a client made by hand: extension headers and flow labels.

use std::time::Duration;

use etherparse::{IpNumber, Ipv6FlowLabel};

use crate::client::PATIENCE;
use crate::cluster::wait_for;
use crate::odd::{Odd, Step, WAYS, request, steps};
use crate::packet::Extension;
use crate::raw::Ways;
use crate::uploads::body;

pub(crate) const STEPS: &[Step] = steps![
    atomic_fragments,
    headers_that_tcp_has_no_use_for,
    labels_and_classes,
];

/// A header of this kind, of eight bytes: a PadN option fills it (RFC 8200 §4.2).
fn padding(kind: IpNumber) -> Extension {
    let rest = vec![0, 1, 4, 0, 0, 0, 0];
    Extension { kind, rest }
}

/// The fragment header of a packet that is all of it (RFC 6946).
fn atomic() -> Extension {
    Extension {
        kind: IpNumber::IPV6_FRAGMENTATION_HEADER,
        rest: vec![0, 0, 0, 0, 0, 0x12, 0x67],
    }
}

/// A routing header of an experiment's type, with no segments left (RFC 8200 §4.4, RFC 4727 §3.3).
fn routing() -> Extension {
    Extension {
        kind: IpNumber::IPV6_ROUTE_HEADER,
        rest: vec![0, 253, 0, 0, 0, 0, 0],
    }
}

/// Acceptance: a client all of whose segments come in atomic fragments.
fn atomic_fragments(odd: &Odd) {
    for (inspecting, target) in WAYS {
        // The whole request in a segment, and one that comes slowly.
        for cut in [None, Some(20)] {
            let request = request(target, 3000);
            let counted = |node| odd.cluster.actions(node, "atomic_fragment");
            let before: Vec<u64> = odd.cluster.nodes().map(counted).collect();
            let mut client = odd.client(inspecting);
            client.extensions = vec![atomic()];
            client.open(&Ways::default());
            if let Some(cut) = cut {
                client.say(&request[..cut]);
                client.go_on_until("the first part's acknowledgment", |client| {
                    client.acked == client.next
                });
            }
            client.say(&request[cut.unwrap_or_default()..]);
            assert_eq!(client.read_response(), body(3000));
            client.close();
            odd.assert_server_read(target, &[&request]);
            // The SYN, the handshake's and the response's acknowledgments, the request, the FIN; and at every node.
            for (node, before) in odd.cluster.nodes().zip(before) {
                wait_for("they are counted", PATIENCE, || counted(node) >= before + 5);
            }
        }
    }
}

/// Acceptance: headers that TCP has no use for are dropped and counted; the connection goes on without them.
fn headers_that_tcp_has_no_use_for(odd: &Odd) {
    let by_hop = || padding(IpNumber::IPV6_HEADER_HOP_BY_HOP);
    let for_destination = || padding(IpNumber::IPV6_DESTINATION_OPTIONS);
    let chains = [
        vec![by_hop()],
        vec![for_destination()],
        vec![routing()],
        vec![by_hop(), for_destination()],
        vec![for_destination(), routing()],
        vec![by_hop(), atomic()],
    ];
    let count = chains.len() as u64;
    for (inspecting, target) in WAYS {
        let request = request(target, 3000);
        let mut client = odd.client(inspecting);
        let dropped = |node| odd.cluster.drops(node, "extension_header");
        let before: Vec<u64> = odd.cluster.nodes().map(dropped).collect();
        for chain in &chains {
            client.extensions = chain.clone();
            client.send_syn(&Ways::default());
        }
        let heard = client.hear(Duration::from_millis(200));
        assert!(heard.is_none(), "{heard:?}");
        client.extensions = Vec::new();
        client.open(&Ways::default());
        for chain in &chains {
            client.extensions = chain.clone();
            client.send(client.segment_at(0), &request);
        }
        let heard = client.hear(Duration::from_millis(200));
        assert!(heard.is_none(), "{heard:?}");
        for (node, before) in odd.cluster.nodes().zip(before) {
            assert_eq!(dropped(node), before + 2 * count, "n{node}");
        }
        client.extensions = Vec::new();
        client.say(&request);
        assert_eq!(client.read_response(), body(3000));
        client.close();
        odd.assert_server_read(target, &[&request]);
    }
}

/// Acceptance: a client whose flow label and traffic class change with each segment.
fn labels_and_classes(odd: &Odd) {
    /// Expedited forwarding, and class selector 1 (RFC 8837), above ECN's bits.
    const CLASSES: [u8; 2] = [46 << 2, 8 << 2];
    for (inspecting, target) in WAYS {
        let request = request(target, 3000);
        let mut client = odd.client(inspecting);
        let mut label = 0x000f_fff0;
        let mut next = || {
            label += 1;
            Ipv6FlowLabel::try_new(label).unwrap()
        };
        client.label = next();
        client.class = CLASSES[0];
        client.open(&Ways::default());
        for part in [&request[..20], &request[20..]] {
            client.label = next();
            client.class = CLASSES[1];
            client.say(part);
        }
        client.label = next();
        assert_eq!(client.read_response(), body(3000));
        client.label = Ipv6FlowLabel::ZERO;
        client.close();
        odd.assert_server_read(target, &[&request]);
    }
}
