//! Messages to bytes.

use std::net::{IpAddr, SocketAddr};

use dts_core::addr::Addr;
use dts_core::ring::RingHash;

use super::{EndReason, Refusal, ToDaemon, ToProcess, WireTarget};
use crate::Cluster;

/// A frame that is being written: its length is filled in at the end.
struct Frame<'a> {
    out: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> Frame<'a> {
    fn begin(out: &'a mut Vec<u8>, kind: u8) -> Self {
        let begin = out.len();
        out.extend([0, 0, 0, 0, kind]);
        Self { out, begin }
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// What is longer than a text may be is cut: no name is.
    fn text(&mut self, text: &str) -> &mut Self {
        let text = &text[..text.floor_char_boundary(u8::MAX.into())];
        self.put(&[text.len() as u8]).put(text.as_bytes())
    }

    fn address(&mut self, address: IpAddr) -> &mut Self {
        self.put(&Addr::from(address).bytes16())
    }

    fn end(&mut self, end: SocketAddr) -> &mut Self {
        self.address(end.ip()).put(&end.port().to_be_bytes())
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        let length = (self.out.len() - self.begin - 4) as u32;
        self.out[self.begin..self.begin + 4].copy_from_slice(&length.to_be_bytes());
    }
}

impl ToDaemon<'_> {
    /// Appends the message's frame.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Hello { version, service } => {
                let mut frame = Frame::begin(out, 0x01);
                frame.put(&version.to_be_bytes()).text(service);
            }
            Self::Handover { id, length, target } => {
                let mut frame = Frame::begin(out, 0x02);
                frame.put(&id.to_be_bytes()).put(&length.to_be_bytes());
                match target {
                    WireTarget::Default => frame.put(&[0]),
                    WireTarget::Local => frame.put(&[1]),
                    WireTarget::Node(address) => frame.put(&[2]).address(address),
                };
            }
            Self::Reject { id } => {
                Frame::begin(out, 0x03).put(&id.to_be_bytes());
            }
            Self::Leave { id } => {
                Frame::begin(out, 0x04).put(&id.to_be_bytes());
            }
        }
    }
}

impl ToProcess<'_> {
    /// Appends the message's frame.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::Welcome { version, service } => {
                let mut frame = Frame::begin(out, 0x81);
                frame.put(&version.to_be_bytes()).text(service);
            }
            Self::Refused { version, reason } => {
                let reason = match reason {
                    Refusal::Version => 1,
                    Refusal::Service => 2,
                    Refusal::TooMany => 3,
                };
                Frame::begin(out, 0x82)
                    .put(&version.to_be_bytes())
                    .put(&[reason]);
            }
            Self::Cluster(cluster) => emit_cluster(cluster, out),
            Self::Opened { id, client, local } => {
                Frame::begin(out, 0x84)
                    .put(&id.to_be_bytes())
                    .end(*client)
                    .end(*local);
            }
            Self::Bytes {
                id,
                offset,
                last,
                data,
            } => {
                Frame::begin(out, 0x85)
                    .put(&id.to_be_bytes())
                    .put(&offset.to_be_bytes())
                    .put(&[u8::from(*last)])
                    .put(data);
            }
            Self::Ended { id, reason } => {
                let reason = match reason {
                    EndReason::Client => 1,
                    EndReason::Overdue => 2,
                    EndReason::Dropped => 3,
                };
                Frame::begin(out, 0x86)
                    .put(&id.to_be_bytes())
                    .put(&[reason]);
            }
        }
    }
}

/// The cluster: `u64` epoch, `u16` this node's place among the members, `u8` hash (0 MD5, 1 SipHash) and its 16 bytes of
/// key; `u16` members, each a text and an address; `u32` points of the ring of requests, each `u64` hash and `u16`
/// member.
fn emit_cluster(cluster: &Cluster, out: &mut Vec<u8>) {
    let (kind, key) = match RingHash::from(*cluster.hash()) {
        RingHash::Md5 => (0, [0; 16]),
        RingHash::SipHash { key } => (1, key),
    };
    let mut frame = Frame::begin(out, 0x83);
    frame
        .put(&cluster.epoch().to_be_bytes())
        .put(&(cluster.own_index() as u16).to_be_bytes())
        .put(&[kind])
        .put(&key)
        .put(&(cluster.members().len() as u16).to_be_bytes());
    for member in cluster.members() {
        frame.text(&member.name).address(member.address);
    }
    frame.put(&(cluster.points().len() as u32).to_be_bytes());
    for point in cluster.points() {
        frame
            .put(&point.hash.to_be_bytes())
            .put(&(point.node as u16).to_be_bytes());
    }
}
