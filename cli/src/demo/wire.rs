//! What goes over the lab's wires while the requests are made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context as _;
use dts_lab::ladder::was_sent_here;
use dts_lab::{Capture, Lab, LabError, Network, Place, Segment};

/// Captures at the client and at both interfaces of every node, all going on.
pub(super) struct Captures(Vec<(Place, Network, Capture)>);

/// What they have seen.
pub(super) struct Wire {
    segments: Vec<Segment>,
}

/// What the wires say about one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whose SYN-ACKs left a node's front interface.
    pub(super) accepted_by: BTreeSet<Place>,
    /// Whose SYN-ACKs reached the client, by the frames' source.
    pub(super) accepted_for_client: BTreeSet<Place>,
    /// Payload bytes to the client by the node whose front interface sent them.
    pub(super) sent: BTreeMap<Place, u64>,
    /// Payload bytes that reached the client, by the frames' source.
    pub(super) received: BTreeMap<Place, u64>,
    /// The bytes that reached the client, in their order.
    pub(super) stream: Vec<u8>,
}

impl Captures {
    /// Starts them all at once: each takes a moment.
    pub(super) fn start(lab: &Lab) -> anyhow::Result<Self> {
        let places = [Network::Front, Network::Back]
            .into_iter()
            .flat_map(|network| {
                lab.spec()
                    .ports(network)
                    .into_iter()
                    .map(move |p| (p, network))
            });
        let captures: Result<Vec<_>, LabError> = thread::scope(|scope| {
            let started: Vec<_> = places
                .map(|(place, network)| {
                    let start = move || lab.capture(place, network.interface(), "tcp");
                    (place, network, scope.spawn(start))
                })
                .collect();
            started
                .into_iter()
                .map(|(place, network, thread)| Ok((place, network, joined(thread)?)))
                .collect()
        });
        Ok(Self(captures?))
    }

    /// Ends them all, and keeps their files if a directory is given.
    pub(super) fn stop(self, directory: Option<&Path>) -> anyhow::Result<Wire> {
        let files: Vec<(PathBuf, String)> = self
            .0
            .iter()
            .map(|(place, network, capture)| {
                (capture.file().to_owned(), format!("{place}-{network}.pcap"))
            })
            .collect();
        let segments: Result<Vec<Vec<Segment>>, LabError> = thread::scope(|scope| {
            let stopped: Vec<_> = self
                .0
                .into_iter()
                .map(|(_, _, capture)| scope.spawn(move || capture.stop()))
                .collect();
            stopped.into_iter().map(joined).collect()
        });
        let segments = segments?.concat();
        if let Some(directory) = directory {
            for (file, name) in files {
                let copy = directory.join(name);
                fs::copy(&file, &copy)
                    .with_context(|| format!("cannot keep a capture as {}", copy.display()))?;
            }
        }
        Ok(Wire { segments })
    }
}

/// A thread's result; a panic goes on here.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T, LabError>>) -> Result<T, LabError> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Wire {
    /// All segments of all captures.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What was seen of the client's connection to the cluster.
    pub(super) fn seen(&self, client: SocketAddr) -> Seen {
        let mut seen = Seen::default();
        let mut parts = Vec::new();
        let mut isn = None;
        let front = Network::Front.interface();
        let to_client = self
            .segments
            .iter()
            .filter(|s| s.destination == client && s.interface == front);
        for segment in to_client {
            let bytes = segment.payload.len() as u64;
            let is_synack = segment.flags.syn && segment.flags.ack;
            let at_client = matches!(segment.place, Place::Client(_));
            let sender = if at_client {
                node_of(segment.source_mac)
            } else {
                was_sent_here(segment).then_some(segment.place)
            };
            let Some(sender) = sender else { continue };
            let (accepted, carried) = if at_client {
                (&mut seen.accepted_for_client, &mut seen.received)
            } else {
                (&mut seen.accepted_by, &mut seen.sent)
            };
            if is_synack {
                accepted.insert(sender);
            }
            if bytes > 0 {
                *carried.entry(sender).or_default() += bytes;
            }
            if at_client && is_synack {
                isn = Some(segment.seq);
            } else if at_client && bytes > 0 {
                parts.push(segment);
            }
        }
        seen.stream = isn.map_or_else(Vec::new, |isn| stream(isn, parts));
        seen
    }
}

/// The node whose front interface has this address.
fn node_of(mac: [u8; 6]) -> Option<Place> {
    (1..=dts_lab::MAX_NODES)
        .map(Place::Node)
        .find(|node| node.mac(Network::Front) == Some(mac))
}

/// The bytes after an initial sequence number, up to the first that is missing.
fn stream(isn: u32, mut parts: Vec<&Segment>) -> Vec<u8> {
    let offset = |segment: &Segment| segment.seq.wrapping_sub(isn.wrapping_add(1)) as usize;
    parts.sort_by_key(|segment| offset(segment));
    let mut stream = Vec::new();
    for part in parts {
        // Sent twice, in whole or in part.
        let known = stream.len().checked_sub(offset(part));
        if let Some(new) = known.and_then(|known| part.payload.get(known..)) {
            stream.extend_from_slice(new);
        }
    }
    stream
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dts_lab::{TcpFlags, TcpOptions};

    use super::*;

    /// A segment from the cluster to the client, as the capture of `place` has it.
    fn segment(place: Place, sender: Place, flags: &str, seq: u32, payload: &[u8]) -> Segment {
        Segment {
            time: Duration::ZERO,
            place,
            interface: Network::Front.interface().to_owned(),
            source_mac: sender.mac(Network::Front).unwrap(),
            destination_mac: [0; 6],
            source: "198.18.0.100:80".parse().unwrap(),
            destination: client(),
            flags: TcpFlags {
                syn: flags.contains('S'),
                ack: flags.contains('.'),
                ..TcpFlags::default()
            },
            seq,
            ack: 0,
            window: 0,
            urgent: 0,
            options: TcpOptions::default(),
            payload: payload.to_vec(),
        }
    }

    fn client() -> SocketAddr {
        "198.18.0.201:40000".parse().unwrap()
    }

    #[test]
    fn both_ends_of_the_wire_are_looked_at() {
        const CLIENT: Place = Place::Client(1);
        let (n1, n2) = (Place::Node(1), Place::Node(2));
        let isn = u32::MAX - 3; // wraps within the answer
        let first = isn.wrapping_add(1);
        let segments = vec![
            segment(n1, n1, "S.", isn, b""),
            segment(CLIENT, n1, "S.", isn, b""),
            segment(n2, n2, ".", first, b"abcd"),
            segment(CLIENT, n2, ".", first, b"abcd"),
            // Lost on its way, then sent again with what follows.
            segment(n2, n2, ".", first.wrapping_add(4), b"ef"),
            segment(n2, n2, ".", first.wrapping_add(4), b"efg"),
            segment(CLIENT, n2, ".", first.wrapping_add(4), b"efg"),
            // Another client's.
            Segment {
                destination: "198.18.0.201:40001".parse().unwrap(),
                ..segment(CLIENT, n1, ".", first, b"zz")
            },
        ];
        let seen = Wire { segments }.seen(client());
        assert_eq!(seen.accepted_by, BTreeSet::from([n1]));
        assert_eq!(seen.accepted_for_client, BTreeSet::from([n1]));
        assert_eq!(seen.sent, BTreeMap::from([(n2, 9)]));
        assert_eq!(seen.received, BTreeMap::from([(n2, 7)]));
        assert_eq!(seen.stream, b"abcdefg");
    }

    #[test]
    fn a_gap_ends_the_stream_and_overlap_counts_once() {
        let part = |seq, bytes| segment(Place::Client(1), Place::Node(1), ".", seq, bytes);
        let (first, overlap, late) = (part(1, b"abc"), part(2, b"bcd"), part(9, b"z"));
        assert_eq!(stream(0, vec![&late, &overlap, &first]), b"abcd");
        assert_eq!(stream(0, vec![&overlap]), b"");
    }
}
