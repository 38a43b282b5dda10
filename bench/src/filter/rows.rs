//! The verdicts that are measured: for each the program, the frames that meet it, and what the filter must know before.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use anyhow::Context as _;
use dts_core::addr::FlowKey;
use dts_core::segment::ACK;
use dts_core::verdict::{Action, DropReason, Verdict};
use dts_lab::{Network, Place, VIP};

use super::states::{
    direct, forged_adoptions, frozen, handover_syns, placed, requests, server_data, spliced_data,
};
use crate::packets::{DATA, Segment, X, Y, ipv4, timestamps};
use crate::staged::{
    ADOPT, HANDOVER, L4, NODE, REDIRECT, SHOT, SPLICE, Staged, TAG_KEY, UNSPEC, member, member_mac,
};

/// Makes so many frames, and has the filter know what it must know for them.
type Prepare = Box<dyn Fn(&Staged, usize) -> anyhow::Result<Vec<Vec<u8>>> + Send + Sync>;

/// One verdict.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) program: &'static str,
    pub(super) verdict: Verdict,
    pub(super) code: i32,
    pub(super) prepare: Prepare,
}

const IN: &str = "front_ingress";
const OUT: &str = "front_egress";
const BACK_IN: &str = "back_ingress";
const BACK_OUT: &str = "back_egress";

/// A frame that is dropped.
fn dropped(
    name: &'static str,
    program: &'static str,
    reason: DropReason,
    prepare: impl Fn(&Staged, usize) -> anyhow::Result<Vec<Vec<u8>>> + Send + Sync + 'static,
) -> Row {
    Row {
        name,
        program,
        verdict: Verdict::Drop(reason),
        code: SHOT,
        prepare: Box::new(prepare),
    }
}

/// A frame that goes on.
fn done(
    name: &'static str,
    program: &'static str,
    action: Action,
    prepare: impl Fn(&Staged, usize) -> anyhow::Result<Vec<Vec<u8>>> + Send + Sync + 'static,
) -> Row {
    let redirected = matches!(
        action,
        Action::SynAnswered | Action::SentOn | Action::HandoverSyn | Action::ArpReply
    );
    Row {
        name,
        program,
        verdict: Verdict::Done(action),
        code: if redirected { REDIRECT } else { UNSPEC },
        prepare: Box::new(prepare),
    }
}

/// All rows. `adopted` is a connection of the node's server.
pub(super) fn rows(adopted: FlowKey) -> Vec<Row> {
    let mut rows = others();
    rows.extend(own(adopted));
    rows.extend(spliced());
    rows.extend(back());
    rows.extend(untouched());
    rows
}

/// Packets of connections that are another node's: what a node has most of.
fn others() -> Vec<Row> {
    let acknowledgment = |port| {
        frames(port, false, |flow| {
            with_stamps(Segment::of_client(flow, X + 1, Y + 1, ACK))
        })
    };
    let syn = |port| frames(port, false, Segment::syn);
    let data = |port| frames(port, false, data);
    vec![
        dropped(
            "another's bare ACK, adopt",
            IN,
            DropReason::NotMine,
            acknowledgment(ADOPT),
        ),
        dropped("another's SYN, adopt", IN, DropReason::NotOwner, syn(ADOPT)),
        dropped(
            "another's data, adopt",
            IN,
            DropReason::NotMine,
            data(ADOPT),
        ),
        dropped(
            "another's bare ACK, splice",
            IN,
            DropReason::NotMine,
            acknowledgment(SPLICE),
        ),
        dropped(
            "another's SYN, splice",
            IN,
            DropReason::NotOwner,
            syn(SPLICE),
        ),
        dropped(
            "another's data, splice",
            IN,
            DropReason::NotMine,
            data(SPLICE),
        ),
        dropped("another's SYN, l4", IN, DropReason::NotOwner, syn(L4)),
        dropped("another's data, l4", IN, DropReason::NotMine, data(L4)),
    ]
}

/// Packets of connections that are this node's.
fn own(adopted: FlowKey) -> Vec<Row> {
    let same = move |frame: Vec<u8>| move |_: &Staged, count| Ok(vec![frame.clone(); count]);
    let of_adopted = with_stamps(Segment {
        payload: vec![b'x'; 100],
        ..Segment::of_client(&adopted, X, Y, DATA)
    });
    let acknowledged = with_stamps(Segment::of_client(&adopted, X, Y, ACK));
    let to_client = with_stamps(Segment {
        payload: vec![b'x'; 1000],
        ..Segment::of_client(&adopted, X, Y, DATA)
    });
    vec![
        done(
            "SYN answered with a cookie, adopt",
            IN,
            Action::SynAnswered,
            frames(ADOPT, true, Segment::syn),
        ),
        dropped(
            "data with a wrong cookie, adopt",
            IN,
            DropReason::BadCookie,
            frames(ADOPT, true, data),
        ),
        done(
            "first data, handed over, adopt",
            IN,
            Action::SentOn,
            requests,
        ),
        done(
            "data of a connection of the server's, adopt",
            IN,
            Action::Pass,
            same(of_adopted.frame()),
        ),
        done(
            "ACK of a connection of the server's, adopt",
            IN,
            Action::Pass,
            same(acknowledged.frame()),
        ),
        done(
            "server's data, adopt",
            OUT,
            Action::Pass,
            same(to_client.reversed().frame()),
        ),
        done(
            "SYN placed, l4",
            IN,
            Action::Pass,
            frames(L4, true, Segment::syn),
        ),
    ]
}

/// Packets of spliced connections on the front network.
fn spliced() -> Vec<Row> {
    vec![
        done(
            "SYN to the inspector, splice",
            IN,
            Action::ToInspector,
            frames(SPLICE, true, Segment::syn),
        ),
        done(
            "client's data, spliced",
            IN,
            Action::ToServer,
            |staged, count| Ok(each(&direct(staged, count)?, spliced_data)),
        ),
        done(
            "server's data, spliced",
            OUT,
            Action::ToClient,
            |staged, count| Ok(each(&direct(staged, count)?, server_data)),
        ),
        dropped(
            "client's data at the node that inspected, splice",
            IN,
            DropReason::HandedOver,
            |staged, count| Ok(each(&placed(staged, count)?, spliced_data)),
        ),
    ]
}

/// The network between the nodes.
fn back() -> Vec<Row> {
    let other = with_stamps(Segment {
        to: member_mac(1),
        from: member_mac(2),
        source: (member(2), 40_000),
        destination: (member(1), 22),
        ..Segment::of_client(&FlowKey::default(), 1, 1, ACK)
    });
    let outgoing = other.clone().reversed();
    vec![
        done(
            "handover SYN, splice",
            BACK_IN,
            Action::HandoverSyn,
            |staged, count| {
                let flows = staged.flows(count, SPLICE, false)?;
                Ok(handover_syns(&flows, member(2), TAG_KEY))
            },
        ),
        dropped(
            "handover SYN with a forged tag, splice",
            BACK_IN,
            DropReason::BadTag,
            |staged, count| {
                let flows = staged.flows(count, SPLICE, false)?;
                Ok(handover_syns(&flows, member(2), [0; 16]))
            },
        ),
        dropped(
            "handover SYN of no member, splice",
            BACK_IN,
            DropReason::NotMember,
            |staged, count| {
                let flows = staged.flows(count, SPLICE, false)?;
                Ok(handover_syns(
                    &flows,
                    Ipv4Addr::new(198, 18, 1, 240),
                    TAG_KEY,
                ))
            },
        ),
        dropped(
            "handed-over request with a forged tag, adopt",
            BACK_IN,
            DropReason::BadTag,
            forged_adoptions,
        ),
        done(
            "request on a handover connection, leaving, splice",
            BACK_OUT,
            Action::HandoverOut,
            frozen,
        ),
        done(
            "TCP of others', arriving at the back",
            BACK_IN,
            Action::Other,
            move |_, count| Ok(vec![other.frame(); count]),
        ),
        done(
            "TCP of others', leaving at the back",
            BACK_OUT,
            Action::Other,
            move |_, count| Ok(vec![outgoing.frame(); count]),
        ),
    ]
}

/// What is none of the filter's business, and ARP.
fn untouched() -> Vec<Row> {
    let client = Place::Client(1);
    let address = |place: Place| place.address(Network::Front).unwrap_or(VIP);
    let mac = |place: Place| place.mac(Network::Front).unwrap_or_default();
    let to_node = with_stamps(Segment {
        to: mac(NODE),
        source: (address(client), 40_000),
        destination: (address(NODE), 22),
        ..Segment::of_client(&FlowKey::default(), 1, 1, ACK)
    });
    let from_node = to_node.clone().reversed();
    let ends = (address(client), address(NODE));
    let udp = [
        &mac(NODE)[..],
        &mac(client),
        &[0x08, 0x00],
        &ipv4(ends, 17, &[], &[0; 40]),
    ]
    .concat();
    let ipv6 = [&mac(NODE)[..], &mac(client), &[0x86, 0xdd, 0x60], &[7; 60]].concat();
    let mut arp = [
        &[0xff; 6][..],
        &mac(client),
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
    ]
    .concat();
    arp.extend(mac(client));
    arp.extend(address(client).octets());
    arp.extend([0; 6]);
    arp.extend(VIP.octets());
    vec![
        done(
            "TCP to the node's own address",
            IN,
            Action::Other,
            move |_, n| Ok(vec![to_node.frame(); n]),
        ),
        done(
            "UDP to the node's own address",
            IN,
            Action::Other,
            move |_, n| Ok(vec![udp.clone(); n]),
        ),
        done("IPv6", IN, Action::Other, move |_, n| {
            Ok(vec![ipv6.clone(); n])
        }),
        done(
            "TCP from the node's own address",
            OUT,
            Action::Other,
            move |_, n| Ok(vec![from_node.frame(); n]),
        ),
        done(
            "ARP request for the VIP",
            IN,
            Action::ArpReply,
            move |_, n| Ok(vec![arp.clone(); n]),
        ),
    ]
}

/// A frame for each of some flows.
fn each(flows: &[FlowKey], segment: impl Fn(&FlowKey) -> Segment) -> Vec<Vec<u8>> {
    flows.iter().map(|flow| segment(flow).frame()).collect()
}

/// Frames of random flows to a port, all of them this node's or all another's.
fn frames(
    port: u16,
    own: bool,
    segment: impl Fn(&FlowKey) -> Segment + Send + Sync + 'static,
) -> impl Fn(&Staged, usize) -> anyhow::Result<Vec<Vec<u8>>> + Send + Sync + 'static {
    move |staged, count| Ok(each(&staged.flows(count, port, own)?, &segment))
}

/// The request of a connection whose SYN nobody here has answered.
fn data(flow: &FlowKey) -> Segment {
    with_stamps(Segment {
        payload: b"GET /n2/1k HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        ..Segment::of_client(flow, X + 1, Y + 1, DATA)
    })
}

fn with_stamps(segment: Segment) -> Segment {
    Segment {
        options: timestamps(1010, 5000),
        ..segment
    }
}

/// A connection of the node's server, from the node itself: to the filter it is one that was adopted.
pub(super) struct Adopted {
    pub(super) flow: FlowKey,
    _streams: (TcpStream, TcpStream, TcpListener),
}

impl Adopted {
    /// Connects in the thread's namespace, which has the VIP.
    pub(super) fn connect() -> anyhow::Result<Self> {
        let address = NODE.address(Network::Front).context("the node's address")?;
        let vip = SocketAddrV4::new(VIP, ADOPT);
        let listener = TcpListener::bind(vip)?;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddrV4::new(address, 0).into())?;
        socket.connect(&vip.into())?;
        let stream = TcpStream::from(socket);
        let (accepted, _) = listener.accept()?;
        let port = stream.local_addr()?.port();
        Ok(Self {
            flow: crate::packets::flow(address, port, ADOPT),
            _streams: (stream, accepted, listener),
        })
    }
}

/// The link address of the frames that the filter is given, for those that have to be addressed to the host: these runs have
/// every frame come from the loopback interface.
pub(super) const LOOPBACK_MAC: [u8; 6] = [0; 6];

/// The port of handover connections, and to what they lead.
pub(super) fn handover_end() -> (Ipv4Addr, u16) {
    (member(1), HANDOVER)
}
