//! What went over a wire: tcpdump's captures, parsed.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{LaxNetSlice, LaxSlicedPacket, LinkSlice, TcpHeaderSlice, TransportSlice};
use pcap_file::pcap::PcapReader;
use rustix::process::Signal;

use crate::error::{LabError, Result, log_tail};
use crate::lab::Lab;
use crate::place::Place;
use crate::process::LabProcess;

/// A capture that is going on. It ends with [`Capture::stop`], or with the lab.
#[derive(Debug)]
pub struct Capture {
    place: Place,
    interface: String,
    file: PathBuf,
    process: LabProcess,
}

/// A TCP segment as it was seen, possibly a large one that the interface would still have cut up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// When, since the Unix epoch; one clock for the whole lab.
    pub time: Duration,
    /// In which place.
    pub place: Place,
    /// On which interface.
    pub interface: String,
    /// The frame's source; [`Place::mac`] tells whose it is.
    pub source_mac: [u8; 6],
    /// The frame's destination.
    pub destination_mac: [u8; 6],
    /// From.
    pub source: SocketAddr,
    /// To.
    pub destination: SocketAddr,
    /// The flags.
    pub flags: TcpFlags,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; meaningful when the ACK flag is set.
    pub ack: u32,
    /// The window field, not scaled.
    pub window: u16,
    /// The urgent pointer; meaningful when the URG flag is set, and in a handover SYN.
    pub urgent: u16,
    /// The options.
    pub options: TcpOptions,
    /// The payload.
    pub payload: Vec<u8>,
}

/// A segment's flags (RFC 9293), printed as tcpdump does: `S`, `S.`, `P.`, `F.`, `R`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are TCP's own names")]
pub struct TcpFlags {
    pub fin: bool,
    pub syn: bool,
    pub rst: bool,
    pub psh: bool,
    pub ack: bool,
    pub urg: bool,
    pub ece: bool,
    pub cwr: bool,
}

/// A segment's options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// All of them, as they were on the wire, padding included.
    pub raw: Vec<u8>,
    /// Maximum segment size (RFC 9293).
    pub mss: Option<u16>,
    /// Window scale (RFC 7323).
    pub window_scale: Option<u8>,
    /// Whether selective acknowledgments are permitted (RFC 2018).
    pub sack_permitted: bool,
    /// Selective acknowledgments: begin and end of each block (RFC 2018).
    pub sack: Vec<(u32, u32)>,
    /// Timestamps: value and echo reply (RFC 7323).
    pub timestamps: Option<(u32, u32)>,
    /// The value of an option of kind 253, the experimental kind (RFC 4727) that the DTS option
    /// uses.
    pub dts: Option<Vec<u8>>,
}

impl Lab {
    /// Captures what a pcap filter such as `tcp port 80` selects, on an interface of a place, from
    /// the moment this returns. The file stays in the lab's directory until the lab is removed.
    pub fn capture(&self, place: Place, interface: &str, filter: &str) -> Result<Capture> {
        let tag = (1..)
            .map(|number| format!("capture-{interface}-{number}"))
            .find(|tag| !self.log_path(place, tag).exists())
            .expect("numbers don't run out");
        let file = self.place_dir(place).join(format!("{tag}.pcap"));
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-i", interface, "-s", "0", "-U", "--immediate-mode"]);
        // As root: other users may not write here. 64 MiB of buffer: nothing is to be lost.
        command.args([
            "-B",
            "65536",
            "--time-stamp-precision=nano",
            "-Z",
            "root",
            "-w",
        ]);
        command.arg(&file).arg(filter);
        let process = self.spawn_tagged(place, &tag, &command)?;
        let what = format!("tcpdump on {interface} of {place}");
        self.wait_ready(&what, &process, Duration::from_secs(10), || {
            log_tail(process.log_path()).contains("listening on")
        })?;
        Ok(Capture {
            place,
            interface: interface.to_owned(),
            file,
            process,
        })
    }
}

impl Capture {
    /// Ends the capture; the TCP segments seen, oldest first. What was on its way to the file still
    /// counts.
    pub fn stop(self) -> Result<Vec<Segment>> {
        self.settle();
        self.process.signal(Signal::INT);
        if !self.process.wait(Duration::from_secs(10)) {
            self.process.stop();
        }
        self.process.forget();
        let segments = read_segments(&self.file, self.place, &self.interface)?;
        match dropped(&log_tail(self.process.log_path())) {
            0 => Ok(segments),
            lost => Err(LabError::Malformed {
                path: self.file,
                message: format!("{lost} packets are missing: tcpdump was too slow for them"),
            }),
        }
    }

    /// The capture's file, for tcpdump or Wireshark.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Waits until nothing has been added to the file for a moment.
    fn settle(&self) {
        const QUIET: Duration = Duration::from_millis(150);
        let deadline = Instant::now() + Duration::from_secs(5);
        let size = || fs::metadata(&self.file).map_or(0, |file| file.len());
        let mut before = size();
        while Instant::now() < deadline {
            thread::sleep(QUIET);
            let now = size();
            if now == before {
                break;
            }
            before = now;
        }
    }
}

/// The TCP segments of a capture file, oldest first. Other packets are left out.
fn read_segments(path: &Path, place: Place, interface: &str) -> Result<Vec<Segment>> {
    let malformed = |error: pcap_file::PcapError| LabError::Malformed {
        path: path.to_path_buf(),
        message: error.to_string(),
    };
    let file = File::open(path).map_err(LabError::io("cannot open", path))?;
    let mut reader = PcapReader::new(file).map_err(malformed)?;
    let mut segments = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(malformed)?;
        segments.extend(Segment::parse(
            &packet.data,
            packet.timestamp,
            place,
            interface,
        ));
    }
    Ok(segments)
}

/// The number in tcpdump's "5 packets dropped by kernel".
fn dropped(log: &str) -> u64 {
    log.lines()
        .filter_map(|line| {
            line.split_once(" packets dropped by kernel")?
                .0
                .parse::<u64>()
                .ok()
        })
        .sum()
}

impl Segment {
    /// `None` when the frame holds no TCP segment.
    fn parse(frame: &[u8], time: Duration, place: Place, interface: &str) -> Option<Self> {
        // Lax: a frame that is to be segmented may have lengths that no wire would carry.
        let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
        let Some(LinkSlice::Ethernet2(ethernet)) = packet.link else {
            return None;
        };
        let (source, destination): (IpAddr, IpAddr) = match packet.net? {
            LaxNetSlice::Ipv4(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            LaxNetSlice::Ipv6(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            LaxNetSlice::Arp(_) => return None,
        };
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            return None;
        };
        let payload = tcp.payload().to_vec();
        let tcp = TcpHeaderSlice::from_slice(tcp.header_slice()).ok()?;
        Some(Self {
            time,
            place,
            interface: interface.to_owned(),
            source_mac: ethernet.source(),
            destination_mac: ethernet.destination(),
            source: SocketAddr::new(source, tcp.source_port()),
            destination: SocketAddr::new(destination, tcp.destination_port()),
            flags: TcpFlags {
                fin: tcp.fin(),
                syn: tcp.syn(),
                rst: tcp.rst(),
                psh: tcp.psh(),
                ack: tcp.ack(),
                urg: tcp.urg(),
                ece: tcp.ece(),
                cwr: tcp.cwr(),
            },
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            window: tcp.window_size(),
            urgent: tcp.urgent_pointer(),
            options: TcpOptions::parse(tcp.options()),
            payload,
        })
    }

    /// The sequence number after this segment; SYN and FIN count.
    pub fn end_seq(&self) -> u32 {
        let flags = u32::from(self.flags.syn) + u32::from(self.flags.fin);
        self.seq
            .wrapping_add(self.payload.len() as u32)
            .wrapping_add(flags)
    }
}

impl std::fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letters = [
            (self.fin, "F"),
            (self.syn, "S"),
            (self.rst, "R"),
            (self.psh, "P"),
            (self.urg, "U"),
            (self.ece, "E"),
            (self.cwr, "W"),
            (self.ack, "."),
        ];
        letters
            .iter()
            .filter(|(set, _)| *set)
            .try_for_each(|(_, letter)| f.write_str(letter))
    }
}

impl TcpOptions {
    /// Reads the options up to the first that is cut off: that one and what follows is only in
    /// `raw`.
    fn parse(raw: &[u8]) -> Self {
        const END: u8 = 0;
        const NO_OPERATION: u8 = 1;
        let mut options = Self {
            raw: raw.to_vec(),
            ..Self::default()
        };
        let mut rest = raw;
        while let Some((&kind, after_kind)) = rest.split_first() {
            if kind == END {
                break;
            }
            if kind == NO_OPERATION {
                rest = after_kind;
                continue;
            }
            let length = after_kind.first().map_or(0, |&length| usize::from(length));
            let Some(value) = rest.get(2..length) else {
                break;
            };
            options.take(kind, value);
            rest = &rest[length..];
        }
        options
    }

    fn take(&mut self, kind: u8, value: &[u8]) {
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0u32, |number, &byte| number << 8 | u32::from(byte))
        };
        match (kind, value) {
            (2, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            (3, &[scale]) => self.window_scale = Some(scale),
            (4, []) => self.sack_permitted = true,
            (5, blocks) => {
                let edges = |block: &[u8]| (number(&block[..4]), number(&block[4..]));
                self.sack.extend(blocks.chunks_exact(8).map(edges));
            }
            (8, stamps) if stamps.len() == 8 => {
                self.timestamps = Some((number(&stamps[..4]), number(&stamps[4..])));
            }
            (253, value) => self.dts = Some(value.to_vec()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpOptionElement};

    use super::*;

    const PLACE: Place = Place::Node(1);

    fn frame(options: &[TcpOptionElement]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 198, 18, 0, 201], [3, 0xbf, 198, 18, 0, 100])
            .ipv4([198, 18, 0, 201], [198, 18, 0, 100], 64)
            .tcp(40000, 80, u32::MAX, 64240)
            .syn()
            .options(options)
            .unwrap();
        let mut frame = Vec::new();
        builder.write(&mut frame, b"hello").unwrap();
        frame
    }

    #[test]
    fn a_frame_becomes_a_segment() {
        let frame = frame(&[
            TcpOptionElement::MaximumSegmentSize(1460),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            TcpOptionElement::Timestamp(7, 9),
            TcpOptionElement::Noop,
            TcpOptionElement::WindowScale(7),
        ]);
        let segment = Segment::parse(&frame, Duration::ZERO, PLACE, "eth0").unwrap();
        assert_eq!(segment.source, "198.18.0.201:40000".parse().unwrap());
        assert_eq!(segment.destination, "198.18.0.100:80".parse().unwrap());
        assert_eq!(
            Some(segment.source_mac),
            Place::Client(1).mac(crate::Network::Front)
        );
        assert_eq!(segment.flags.to_string(), "S");
        assert_eq!(segment.payload, b"hello");
        assert_eq!(segment.end_seq(), 5, "wraps");
        let options = &segment.options;
        assert_eq!((options.mss, options.window_scale), (Some(1460), Some(7)));
        assert_eq!(
            (options.sack_permitted, options.timestamps),
            (true, Some((7, 9)))
        );
    }

    #[test]
    fn a_segment_behind_an_extension_header_is_found() {
        use dts_core::handover::destination::{Header, LEN, NEXT_HEADER, emit};

        let (from, to) = ("2001:db8::201", "2001:db8::100");
        let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 198, 18, 1, 11], [2, 0, 198, 18, 1, 12])
            .ipv6(octets(from), octets(to), 64)
            .tcp(40000, 80, 7, 64240)
            .ack(9)
            .write(&mut frame, b"GET /")
            .unwrap();
        let plain = Segment::parse(&frame, Duration::ZERO, PLACE, "eth1").unwrap();
        assert_eq!(plain.source, format!("[{from}]:40000").parse().unwrap());
        assert_eq!(plain.destination, format!("[{to}]:80").parse().unwrap());

        // As one node sends a client's segment on to another.
        let mut header = Header::default();
        emit(
            &dts_core::handover::release::Room { bytes: [7; 16] },
            &mut header,
        );
        let length = u16::from_be_bytes([frame[18], frame[19]]) + LEN as u16;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        frame[20] = NEXT_HEADER;
        frame.splice(54..54, header.bytes);
        let sent_on = Segment::parse(&frame, Duration::ZERO, PLACE, "eth1");
        assert_eq!(sent_on, Some(plain));
    }

    #[test]
    fn other_frames_are_left_out() {
        let mut not_tcp = frame(&[]);
        not_tcp[14 + 9] = 17;
        assert_eq!(
            Segment::parse(&not_tcp, Duration::ZERO, PLACE, "eth0"),
            None
        );
        assert_eq!(
            Segment::parse(&[0; 20], Duration::ZERO, PLACE, "eth0"),
            None
        );
        assert_eq!(Segment::parse(&[], Duration::ZERO, PLACE, "eth0"), None);
    }

    #[test]
    fn the_dts_option_fills_all_forty_bytes() {
        let mut raw = vec![253, 40];
        raw.extend(2..40);
        assert_eq!(TcpOptions::parse(&raw).dts, Some((2..40).collect()));
    }

    #[test]
    fn cut_off_options_end_the_list() {
        for raw in [
            &[2u8, 4, 5][..],
            &[2],
            &[2, 0, 0],
            &[2, 1, 0],
            &[253, 255, 1],
        ] {
            let options = TcpOptions::parse(raw);
            assert_eq!(
                options,
                TcpOptions {
                    raw: raw.to_vec(),
                    ..TcpOptions::default()
                }
            );
        }
        let blocks = [5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4];
        assert_eq!(TcpOptions::parse(&blocks).sack, [(1, 2), (3, 4)]);
    }

    #[test]
    fn tcpdumps_losses_are_noticed() {
        let log = "5 packets captured\n9 packets received by filter\n4 packets dropped by kernel\n";
        assert_eq!(dropped(log), 4);
    }
}
