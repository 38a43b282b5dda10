use super::*;
use crate::segment::ACK;
use crate::seq::Seq;

struct Node {
    socket: Socket,
    owner: Ownership,
}

impl Facts for Node {
    fn ownership(&self) -> Ownership {
        self.owner
    }

    fn socket(&self, _: Port) -> Socket {
        self.socket
    }

    fn answers_cookie(&self) -> bool {
        false
    }
}

fn node(socket: Socket, owner: Ownership) -> Node {
    Node { socket, owner }
}

const ISN: Seq = Seq(u32::MAX - 1);
const COOKIE: Seq = Seq(5000);

fn record(stage: u32) -> Adoption {
    Adoption {
        client_isn: ISN,
        server_isn: COOKIE,
        stage,
        ..Adoption::default()
    }
}

fn segment(after: u32, payload: u32, flags: u8) -> TcpHeader {
    TcpHeader {
        seq: ISN.plus(1).plus(after),
        ack: COOKIE.plus(1),
        flags: flags | ACK,
        payload,
        ..TcpHeader::default()
    }
}

#[test]
fn a_syn_is_answered_by_its_owner_only() {
    use Ownership::{LeaseExpired, NoRing, NotOwner, Owner};
    use Socket::{Alive, None, TimeWait};
    for (socket, owner, follows, expected) in [
        (None, Owner, true, Syn::Answer),
        (None, NotOwner, true, Syn::Drop(DropReason::NotOwner)),
        (
            None,
            LeaseExpired,
            true,
            Syn::Drop(DropReason::LeaseExpired),
        ),
        (None, NoRing, true, Syn::Drop(DropReason::NoRing)),
        (Alive, Owner, true, Syn::Challenge),
        (Alive, NotOwner, true, Syn::Challenge),
        (TimeWait, Owner, true, Syn::AnswerAfterTimeWait),
        (TimeWait, NotOwner, true, Syn::KillTimeWait),
        (TimeWait, LeaseExpired, true, Syn::KillTimeWait),
        (TimeWait, Owner, false, Syn::Challenge),
        (TimeWait, NotOwner, false, Syn::Challenge),
    ] {
        let decided = syn(&node(socket, owner), || follows);
        assert_eq!(decided, expected, "{socket:?} {owner:?} {follows}");
    }
}

#[test]
fn a_socket_gets_its_segments() {
    for socket in [Socket::Alive, Socket::TimeWait] {
        for stage in [stage::UNDECIDED, stage::SENT, stage::OPEN] {
            let decided = client(&segment(0, 5, 0), Some(&record(stage)), socket);
            assert_eq!(decided, Client::Pass);
        }
        assert_eq!(client(&segment(0, 0, RST), None, socket), Client::Pass);
    }
}

#[test]
fn without_a_record_only_what_carries_something_is_looked_at() {
    for (payload, flags, expected) in [
        (5, 0, Client::Unknown),
        (0, FIN, Client::Unknown),
        (0, 0, Client::Drop(DropReason::NotMine)),
        (5, RST, Client::Drop(DropReason::NotMine)),
        (5, SYN, Client::Drop(DropReason::NotMine)),
    ] {
        let decided = client(&segment(0, payload, flags), None, Socket::None);
        assert_eq!(decided, expected, "{payload} {flags:x}");
    }
}

#[test]
fn a_record_says_where_segments_go() {
    let drop = Client::Drop;
    for (stage, after, payload, flags, expected) in [
        (stage::UNDECIDED, 0, 5, 0, Client::ToInspector),
        (stage::UNDECIDED, 5, 0, FIN, Client::ToInspector),
        (stage::UNDECIDED, 5, 0, RST, Client::GivenUp),
        (stage::UNDECIDED, 0, 0, 0, drop(DropReason::NotMine)),
        (stage::SENT, 0, 5, 0, Client::Again),
        (stage::SENT, 60_000, 5, 0, Client::Again),
        (stage::SENT, 0, 0, 0, drop(DropReason::NotMine)),
        (stage::SENT, 0, 0, RST, drop(DropReason::NotMine)),
        (stage::HERE, 0, 5, 0, Client::Unknown),
        (stage::HERE, 5, 5, 0, drop(DropReason::TooEarly)),
        (stage::OPEN, 0, 5, 0, drop(DropReason::DuplicateRequest)),
        (stage::OPEN, 5, 5, 0, drop(DropReason::DuplicateRequest)),
        (stage::REJECTED, 0, 5, 0, drop(DropReason::Rejected)),
    ] {
        let decided = client(
            &segment(after, payload, flags),
            Some(&record(stage)),
            Socket::None,
        );
        assert_eq!(decided, expected, "{stage} {after} {payload} {flags:x}");
    }
}

#[test]
fn a_record_is_of_one_connection() {
    let known = record(stage::OPEN);
    let other = TcpHeader {
        ack: COOKIE.plus(2),
        ..segment(0, 5, 0)
    };
    let elsewhere = Client::Drop(DropReason::HandedOver);
    // Unless a SYN has come since, which may be a new connection's.
    let stale = Adoption {
        track: track::STALE,
        ..record(stage::SENT)
    };
    assert_eq!(client(&other, Some(&stale), Socket::None), Client::Unknown);
    let repeated = client(&segment(0, 5, 0), Some(&stale), Socket::None);
    assert_eq!(repeated, Client::Again);
    assert_eq!(client(&other, Some(&known), Socket::None), elsewhere);
    let beyond = segment(REACH + 1, 5, 0);
    assert_eq!(client(&beyond, Some(&known), Socket::None), elsewhere);
    let before = segment(u32::MAX, 5, 0);
    assert_eq!(client(&before, Some(&known), Socket::None), elsewhere);
}

#[test]
fn a_target_is_given_time_to_answer() {
    let noted = Adoption {
        since: u32::MAX - 10,
        ..record(stage::SENT)
    };
    let silent = |after, later: u32| {
        let now = noted.since.wrapping_add(later);
        is_silent(&segment(after, 1, 0), &noted, now)
    };
    assert!(!silent(0, 0));
    assert!(!silent(0, PATIENCE));
    assert!(silent(0, PATIENCE + 1));
    assert!(!silent(1, PATIENCE + 1));
    // Noted by a clock that is ahead.
    assert!(!silent(0, 0u32.wrapping_sub(4)));
}
