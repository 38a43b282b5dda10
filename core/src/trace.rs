//! What the filter tells of single packets while somebody traces: the layouts that it shares with the daemon, and the
//! little that it reads of a frame for that.
//!
//! A record has the frame's headers as they came and as they went, and the verdict; what was rewritten is the
//! difference. The headers are kept as bytes, so a record says the same whatever the IP version.

use crate::addr::{Addr, FlowKey};
use crate::handover::destination::NEXT_HEADER as DESTINATION_OPTIONS;
use crate::segment::{ACK, FIN, RST, SYN};

/// How many bytes of a frame a record has: Ethernet, IP and TCP headers, each as long as they can be, and room.
pub const HEADERS: usize = 160;

/// What is to be traced. The one value of the map `TRACE`.
///
/// The daemon sets it for a moment and sets it again as long as somebody traces: of a daemon that is gone nothing stays
/// switched on.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TraceSettings {
    /// Until when, in nanoseconds of the monotonic clock. 0: nothing is traced.
    pub until: u64,
    /// Only connections from this address, unless it is `::`.
    pub client: Addr,
    /// Only connections to this address, unless it is `::`.
    pub vip: Addr,
    /// Only connections from this port, unless it is 0.
    pub client_port: u32,
    /// Only connections to this port, unless it is 0.
    pub port: u32,
    /// [`wish`] bits.
    pub flags: u32,
    /// Unused.
    pub reserved: u32,
}

impl TraceSettings {
    /// Whether a flow is to be traced. One that isn't known (all 0) is: it may be the one that is looked for, of a handover
    /// that is refused.
    #[inline(always)]
    #[must_use]
    pub fn wants(&self, flow: &FlowKey) -> bool {
        let any = Addr::default();
        if flow.remote == any && flow.local == any {
            return true;
        }
        (self.client == any || self.client == flow.remote)
            && (self.vip == any || self.vip == flow.local)
            && (self.client_port == 0 || self.client_port == flow.remote_port.into())
            && (self.port == 0 || self.port == flow.local_port.into())
    }
}

/// Bits of [`TraceSettings::flags`].
pub mod wish {
    /// Also what is dropped because another node has the connection, and second passes of the same packet.
    pub const ALL: u32 = 1;
}

/// Numbers of the programs in a record.
pub mod program {
    /// What arrives at the front.
    pub const FRONT_INGRESS: u32 = 0;
    /// What leaves at the front.
    pub const FRONT_EGRESS: u32 = 1;
    /// What arrives at the back.
    pub const BACK_INGRESS: u32 = 2;
    /// What leaves at the back.
    pub const BACK_EGRESS: u32 = 3;
    /// How many there are.
    pub const COUNT: u32 = 4;

    /// The program's name; `None` for a number that is none's.
    #[must_use]
    pub const fn name(number: u32) -> Option<&'static str> {
        match number {
            FRONT_INGRESS => Some("front_ingress"),
            FRONT_EGRESS => Some("front_egress"),
            BACK_INGRESS => Some("back_ingress"),
            BACK_EGRESS => Some("back_egress"),
            _ => None,
        }
    }
}

/// One run of a program on one packet. A record of the ring buffer `TRACES`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TraceRecord {
    /// When the program was done, in nanoseconds of the monotonic clock.
    pub time: u64,
    /// The client's flow, its local port the public one; all 0 where the filter couldn't tell.
    pub flow: FlowKey,
    /// The verdict, by its [counter](crate::verdict::Verdict::counter).
    pub verdict: u32,
    /// [`program`].
    pub program: u32,
    /// The packet's mark when the program began.
    pub mark: u32,
    /// How long the frame was when the program began, and when it ended, in bytes.
    pub lengths: [u32; 2],
    /// [`known`] bits.
    pub known: u32,
    /// The initial sequence number that the client chose.
    pub client_isn: u32,
    /// The one that it was told.
    pub server_isn: u32,
    /// The other node, or this one, that the connection is handed to or comes from: its back address, or the
    /// pseudo-address.
    pub peer: Addr,
    /// Unused.
    pub reserved: u32,
    /// The first bytes of the frame when the program began.
    pub before: [u8; HEADERS],
    /// The first bytes of the frame when it ended.
    pub after: [u8; HEADERS],
}

/// Bits of [`TraceRecord::known`].
pub mod known {
    /// `client_isn` is valid.
    pub const CLIENT_ISN: u32 = 1;
    /// `server_isn` is valid.
    pub const SERVER_ISN: u32 = 2;
    /// `peer` is valid.
    pub const PEER: u32 = 4;
    /// It is told only to those who want [`all`](super::wish::ALL).
    pub const EXTRA: u32 = 8;
}

const _: () = {
    assert!(size_of::<TraceSettings>() == 56);
    assert!(size_of::<TraceRecord>() == 96 + 2 * HEADERS);
};

const ETH: usize = 14;
const IPV4: u8 = 20;
const IPV6: usize = 40;
const TCP: u8 = 6;
/// Where a TCP header can begin: a mask that no header passes.
const PLACES: usize = 0x7f;

/// Addresses, ports and flags of a TCP segment in a frame.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    /// From.
    pub source: Addr,
    /// To.
    pub destination: Addr,
    /// From.
    pub source_port: u16,
    /// To.
    pub destination_port: u16,
    /// The flags.
    pub flags: u8,
    /// Not 0 if it has data.
    pub data: u8,
    /// Whether there is a segment at all: not 0.
    pub valid: u16,
}

impl Ends {
    /// Reads the beginning of a frame of `len` bytes. Bytes beyond that are taken for 0s or whatever they are.
    #[inline(always)]
    pub fn read(&mut self, frame: &[u8; HEADERS], len: u32) {
        self.valid = 0;
        let ip_len;
        let l4;
        match (frame[12], frame[13]) {
            (0x08, 0x00) => {
                let header = (frame[14] & 0x0f) * 4;
                let fragment = (frame[20] & 0x3f) | frame[21];
                if frame[14] >> 4 != 4 || header < IPV4 || frame[23] != TCP || fragment != 0 {
                    return;
                }
                self.source = Addr::v4([frame[26], frame[27], frame[28], frame[29]]);
                self.destination = Addr::v4([frame[30], frame[31], frame[32], frame[33]]);
                ip_len = u16::from_be_bytes([frame[16], frame[17]]) as usize;
                l4 = ETH + header as usize;
            }
            (0x86, 0xdd) => {
                let mut next = frame[20];
                let mut at = ETH + IPV6;
                if next == DESTINATION_OPTIONS {
                    next = frame[ETH + IPV6];
                    at += 8 * (frame[ETH + IPV6 + 1] as usize + 1);
                }
                if frame[14] >> 4 != 6 || next != TCP || at > PLACES {
                    return;
                }
                self.source = v6(frame, 22);
                self.destination = v6(frame, 38);
                ip_len = IPV6 + u16::from_be_bytes([frame[18], frame[19]]) as usize;
                l4 = at;
            }
            _ => return,
        }
        let l4 = l4 & PLACES;
        if len < l4 as u32 + 20 {
            return;
        }
        self.source_port = u16::from_be_bytes([frame[l4], frame[l4 + 1]]);
        self.destination_port = u16::from_be_bytes([frame[l4 + 2], frame[l4 + 3]]);
        self.flags = frame[l4 + 13];
        let headers = l4 - ETH + (frame[l4 + 12] >> 4) as usize * 4;
        self.data = (ip_len > headers) as u8;
        self.valid = 1;
    }

    /// The flow, if the source is the client.
    #[inline(always)]
    #[must_use]
    pub const fn from_client(&self) -> FlowKey {
        FlowKey {
            remote: self.source,
            local: self.destination,
            remote_port: self.source_port,
            local_port: self.destination_port,
        }
    }

    /// The flow, if the destination is the client.
    #[inline(always)]
    #[must_use]
    pub const fn to_client(&self) -> FlowKey {
        FlowKey {
            remote: self.destination,
            local: self.source,
            remote_port: self.destination_port,
            local_port: self.source_port,
        }
    }

    /// Whether this is an acknowledgment and nothing else.
    #[inline(always)]
    #[must_use]
    pub const fn only_acknowledges(&self) -> bool {
        self.flags & (SYN | FIN | RST | ACK) == ACK && self.data == 0
    }
}

#[inline(always)]
fn v6(frame: &[u8; HEADERS], at: usize) -> Addr {
    let mut octets = [0; 16];
    let mut i = 0;
    while i < 16 {
        octets[i] = frame[at + i];
        i += 1;
    }
    Addr::v6(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Addr = Addr::v4([198, 18, 0, 201]);
    const VIP: Addr = Addr::v4([198, 18, 0, 100]);

    fn read(frame: &[u8; HEADERS], len: u32) -> Ends {
        let mut ends = Ends::default();
        ends.read(frame, len);
        ends
    }

    fn tcp(frame: &mut [u8], flags: u8) {
        frame[..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        frame[12] = 0x50;
        frame[13] = flags;
    }

    fn v4(header: u8, flags: u8, data: u16) -> [u8; HEADERS] {
        let mut frame = [0; HEADERS];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x40 | (header / 4);
        let total = u16::from(header) + 20 + data;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[20] = 0x40;
        frame[23] = TCP;
        frame[26..30].copy_from_slice(&CLIENT.v4_tail());
        frame[30..34].copy_from_slice(&VIP.v4_tail());
        tcp(&mut frame[ETH + usize::from(header)..], flags);
        frame
    }

    #[test]
    fn ipv4_with_and_without_options() {
        for header in [20, 36, 60] {
            let ends = read(&v4(header, ACK, 5), 100);
            assert_eq!(
                (ends.valid, ends.source, ends.destination),
                (1, CLIENT, VIP)
            );
            assert_eq!((ends.source_port, ends.destination_port), (40_000, 80));
            assert_eq!((ends.flags, ends.data), (ACK, 1));
            assert!(!ends.only_acknowledges());
            assert!(read(&v4(header, ACK, 0), 100).only_acknowledges());
            assert!(!read(&v4(header, ACK | SYN, 0), 100).only_acknowledges());
        }
        let ends = read(&v4(20, ACK, 0), 54);
        assert_eq!(ends.from_client().remote, CLIENT);
        assert_eq!(ends.to_client().remote_port, 80);
    }

    #[test]
    fn ipv6_with_and_without_destination_options() {
        for options in [0usize, 16, 24] {
            let mut frame = [0; HEADERS];
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame[14] = 0x60;
            frame[19] = 20 + options as u8;
            frame[20] = TCP;
            if options != 0 {
                frame[20] = DESTINATION_OPTIONS;
                frame[54] = TCP;
                frame[55] = (options / 8 - 1) as u8;
            }
            frame[22..24].copy_from_slice(&[0x20, 1]);
            frame[38..40].copy_from_slice(&[0x20, 2]);
            tcp(&mut frame[54 + options..], SYN);
            let ends = read(&frame, 120);
            let mut octets = [0; 16];
            octets[..2].copy_from_slice(&[0x20, 1]);
            assert_eq!((ends.valid, ends.source), (1, Addr::v6(octets)));
            assert_eq!((ends.destination_port, ends.flags, ends.data), (80, SYN, 0));
            frame[19] += 1;
            assert_eq!(read(&frame, 120).data, 1);
        }
    }

    #[test]
    fn what_is_no_whole_tcp_segment_is_none() {
        let valid = |change: &dyn Fn(&mut [u8; HEADERS])| {
            let mut frame = v4(20, ACK, 0);
            change(&mut frame);
            read(&frame, 54).valid
        };
        assert_eq!(valid(&|_| {}), 1);
        assert_eq!(valid(&|f| f[13] = 6), 0, "ARP");
        assert_eq!(valid(&|f| f[14] = 0x44), 0, "a short header");
        assert_eq!(valid(&|f| f[14] = 0x4f), 0, "the end of the frame");
        assert_eq!(valid(&|f| f[14] = 0x55), 0, "version 5");
        assert_eq!(valid(&|f| f[23] = 17), 0, "UDP");
        assert_eq!(valid(&|f| f[21] = 1), 0, "a fragment");
        assert_eq!(read(&v4(20, ACK, 0), 53).valid, 0, "cut off");
        let mut v6 = [0xff; HEADERS];
        v6[12..14].copy_from_slice(&[0x86, 0xdd]);
        v6[14] = 0x60;
        v6[20] = DESTINATION_OPTIONS;
        v6[54] = TCP;
        assert_eq!(read(&v6, 160).valid, 0, "2 KiB of options");
    }

    #[test]
    fn wishes_narrow_what_is_wanted() {
        let flow = FlowKey {
            remote: CLIENT,
            local: VIP,
            remote_port: 40_000,
            local_port: 80,
        };
        let all = TraceSettings::default();
        assert!(all.wants(&flow) && all.wants(&FlowKey::default()));
        let wants = |settings: TraceSettings| settings.wants(&flow);
        assert!(wants(TraceSettings {
            client: CLIENT,
            vip: VIP,
            client_port: 40_000,
            port: 80,
            ..all
        }));
        assert!(!wants(TraceSettings { client: VIP, ..all }));
        assert!(TraceSettings { client: VIP, ..all }.wants(&FlowKey::default()));
        assert!(!wants(TraceSettings { vip: CLIENT, ..all }));
        assert!(!wants(TraceSettings {
            client_port: 1,
            ..all
        }));
        assert!(!wants(TraceSettings { port: 81, ..all }));
    }
}
