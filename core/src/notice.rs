//! Notices between daemons: which handed-over connections are over.
//!
//! The node that inspected a connection keeps an entry while the connection lives on another node, so
//! that it starts nothing when a SYN for the flow is forged. The processing node tells it when the
//! connection is over. Notices travel as UDP datagrams between the back addresses, on the handover port,
//! and are repeated until they are acknowledged; multi-byte fields are in network byte order:
//!
//! ```text
//! | "DTSN" | version 1 | kind | count (2) | Unix time, s (8) | count x record | tag (8) |
//!
//! record: | remote address (16) | local address (16) | remote port (2) | local port (2) | ISN (4) |
//! ```
//!
//! Addresses are in the shared sixteen-byte form. The tag is SipHash-2-4 of everything before it, under a
//! key derived from the cluster secret.

use crate::addr::{Addr, FlowKey};
use crate::seq::Seq;
use crate::siphash::siphash24;

const MAGIC: [u8; 4] = *b"DTSN";
const VERSION: u8 = 1;
const HEADER: usize = 16;
const RECORD: usize = 40;
const TAG: usize = 8;

/// The most records of one notice: it fits into every Ethernet frame.
pub const MAX_RECORDS: usize = 32;
/// The longest notice in bytes.
pub const MAX_LEN: usize = HEADER + MAX_RECORDS * RECORD + TAG;
/// How old a notice may be, and how far clocks may be apart, in seconds.
pub const FRESHNESS_SECONDS: u64 = 30;

/// What a notice says of its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The sender's server has these connections no more.
    Ended,
    /// The sender has taken note of an [`Ended`](Self::Ended).
    Noted,
    /// Does the receiver have these connections still? Answered by an [`Ended`](Self::Ended) of those it
    /// has not, and a [`Here`](Self::Here) of the others.
    Question,
    /// The sender's server has these connections; or, as an answer to [`Known`](Self::Known), it knows them.
    Here,
    /// Does the receiver know these connections: does it inspect them, has it given them to a node, has its server had
    /// their requests? Answered by a [`Here`](Self::Here) of those it knows, and an [`Unknown`](Self::Unknown) of the others.
    Known,
    /// The sender doesn't know these connections.
    Unknown,
}

/// A connection: its flow, and the client's initial sequence number.
pub type Record = (FlowKey, Seq);

/// Why a datagram is no notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Its length, magic number, version, kind or count is wrong.
    Malformed,
    /// Its tag is wrong.
    BadTag,
    /// It is too old, or one of the clocks is wrong.
    Stale,
}

/// A notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notice {
    /// What it says.
    pub kind: Kind,
    records: [Record; MAX_RECORDS],
    count: usize,
}

impl Notice {
    /// A notice about the first [`MAX_RECORDS`] of `records`.
    #[must_use]
    pub fn new(kind: Kind, records: &[Record]) -> Self {
        let nothing = FlowKey {
            remote: Addr::default(),
            local: Addr::default(),
            remote_port: 0,
            local_port: 0,
        };
        let mut all = [(nothing, Seq(0)); MAX_RECORDS];
        let count = records.len().min(MAX_RECORDS);
        all[..count].copy_from_slice(&records[..count]);
        Self {
            kind,
            records: all,
            count,
        }
    }

    /// The connections it is about.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records[..self.count]
    }

    /// Writes the notice, made at `now` (Unix time, s); returns its length.
    pub fn emit(&self, key: &[u8; 16], now: u64, b: &mut [u8; MAX_LEN]) -> usize {
        b[..4].copy_from_slice(&MAGIC);
        b[4] = VERSION;
        b[5] = match self.kind {
            Kind::Ended => 1,
            Kind::Noted => 2,
            Kind::Question => 3,
            Kind::Here => 4,
            Kind::Known => 5,
            Kind::Unknown => 6,
        };
        b[6..8].copy_from_slice(&(self.count as u16).to_be_bytes());
        b[8..16].copy_from_slice(&now.to_be_bytes());
        let mut end = HEADER;
        for (flow, isn) in self.records() {
            let r = &mut b[end..end + RECORD];
            r[..16].copy_from_slice(&flow.remote.bytes16());
            r[16..32].copy_from_slice(&flow.local.bytes16());
            r[32..34].copy_from_slice(&flow.remote_port.to_be_bytes());
            r[34..36].copy_from_slice(&flow.local_port.to_be_bytes());
            r[36..40].copy_from_slice(&isn.0.to_be_bytes());
            end += RECORD;
        }
        let tag = siphash24(key, &b[..end]);
        b[end..end + TAG].copy_from_slice(&tag.to_be_bytes());
        end + TAG
    }

    /// Reads a datagram that arrived at `now` (Unix time, s).
    ///
    /// # Errors
    ///
    /// When it is not a notice, not of this cluster, or too old.
    pub fn parse(b: &[u8], key: &[u8; 16], now: u64) -> Result<Self, Refusal> {
        let (rest, tag) = b.split_last_chunk::<TAG>().ok_or(Refusal::Malformed)?;
        let (header, records) = rest
            .split_first_chunk::<HEADER>()
            .ok_or(Refusal::Malformed)?;
        let kind = match (header.first_chunk(), header[4], header[5]) {
            (Some(&MAGIC), VERSION, 1) => Kind::Ended,
            (Some(&MAGIC), VERSION, 2) => Kind::Noted,
            (Some(&MAGIC), VERSION, 3) => Kind::Question,
            (Some(&MAGIC), VERSION, 4) => Kind::Here,
            (Some(&MAGIC), VERSION, 5) => Kind::Known,
            (Some(&MAGIC), VERSION, 6) => Kind::Unknown,
            _ => return Err(Refusal::Malformed),
        };
        let count = usize::from(u16::from_be_bytes([header[6], header[7]]));
        let (records, []) = records.as_chunks::<RECORD>() else {
            return Err(Refusal::Malformed);
        };
        if count != records.len() || count > MAX_RECORDS {
            return Err(Refusal::Malformed);
        }
        if siphash24(key, rest) != u64::from_be_bytes(*tag) {
            return Err(Refusal::BadTag);
        }
        let [.., t0, t1, t2, t3, t4, t5, t6, t7] = *header;
        let made = u64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
        if now.abs_diff(made) > FRESHNESS_SECONDS {
            return Err(Refusal::Stale);
        }
        let mut notice = Self::new(kind, &[]);
        for (to, from) in notice.records.iter_mut().zip(records) {
            *to = record(from);
        }
        notice.count = count;
        Ok(notice)
    }
}

fn record(b: &[u8; RECORD]) -> Record {
    let mut addresses = [[0; 16]; 2];
    addresses[0].copy_from_slice(&b[..16]);
    addresses[1].copy_from_slice(&b[16..32]);
    let flow = FlowKey {
        remote: Addr::v6(addresses[0]),
        local: Addr::v6(addresses[1]),
        remote_port: u16::from_be_bytes([b[32], b[33]]),
        local_port: u16::from_be_bytes([b[34], b[35]]),
    };
    (flow, Seq(u32::from_be_bytes([b[36], b[37], b[38], b[39]])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 16] = *b"fedcba9876543210";

    fn any_record() -> impl Strategy<Value = Record> {
        any::<([u8; 16], [u8; 16], u16, u16, u32)>().prop_map(|(r, l, rp, lp, isn)| {
            let (remote, local) = (Addr::v6(r), Addr::v6(l));
            (
                FlowKey {
                    remote,
                    local,
                    remote_port: rp,
                    local_port: lp,
                },
                Seq(isn),
            )
        })
    }

    fn any_kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Ended),
            Just(Kind::Noted),
            Just(Kind::Question),
            Just(Kind::Here),
            Just(Kind::Known),
            Just(Kind::Unknown)
        ]
    }

    proptest! {
        #[test]
        fn a_notice_survives_emit_and_parse(
            kind in any_kind(),
            records in prop::collection::vec(any_record(), 0..=MAX_RECORDS),
            now in FRESHNESS_SECONDS..1 << 40,
        ) {
            let notice = Notice::new(kind, &records);
            let mut b = [0; MAX_LEN];
            let len = notice.emit(&KEY, now, &mut b);
            prop_assert_eq!(Notice::parse(&b[..len], &KEY, now + FRESHNESS_SECONDS), Ok(notice));
            prop_assert_eq!(
                Notice::parse(&b[..len], &KEY, now + FRESHNESS_SECONDS + 1),
                Err(Refusal::Stale)
            );
            prop_assert_eq!(Notice::parse(&b[..len], b"another key.....", now), Err(Refusal::BadTag));
        }

        #[test]
        fn any_changed_bit_is_noticed(
            records in prop::collection::vec(any_record(), 1..4),
            bit: prop::sample::Index,
        ) {
            let mut b = [0; MAX_LEN];
            let len = Notice::new(Kind::Ended, &records).emit(&KEY, 1000, &mut b);
            let bit = bit.index(len * 8);
            b[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Notice::parse(&b[..len], &KEY, 1000).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(b in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Notice::parse(&b, &KEY, 1000);
        }
    }

    #[test]
    fn no_more_than_the_most_records_are_sent() {
        let flow = Notice::new(Kind::Ended, &[]).records[0].0;
        let many = [(flow, Seq(1)); MAX_RECORDS + 1];
        assert_eq!(Notice::new(Kind::Ended, &many).records().len(), MAX_RECORDS);
    }
}
