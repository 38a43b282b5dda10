//! What a client's segment becomes.

use super::*;

const SOCKETS: [Socket; 3] = [Socket::None, Socket::Alive, Socket::TimeWait];

const OWNERSHIPS: [Ownership; 4] = [
    Ownership::Owner,
    Ownership::NotOwner,
    Ownership::LeaseExpired,
    Ownership::NoRing,
];

struct Known {
    ownership: Ownership,
    public: Socket,
    inspector: Socket,
    cookie: bool,
}

impl Facts for Known {
    fn ownership(&self) -> Ownership {
        self.ownership
    }

    fn socket(&self, port: Port) -> Socket {
        match port {
            Port::Public => self.public,
            Port::Inspector => self.inspector,
        }
    }

    fn answers_cookie(&self) -> bool {
        self.cookie
    }
}

fn every_fact() -> Vec<Known> {
    let mut all = Vec::new();
    for ownership in OWNERSHIPS {
        for public in SOCKETS {
            for inspector in SOCKETS {
                for cookie in [false, true] {
                    all.push(Known {
                        ownership,
                        public,
                        inspector,
                        cookie,
                    });
                }
            }
        }
    }
    all
}

/// Mode `l4`: sockets before the ring.
#[test]
fn l4_table_is_exhaustive() {
    let syn = TcpHeader {
        flags: SYN,
        ..TcpHeader::default()
    };
    for facts in every_fact() {
        let expected = match (facts.ownership, facts.public) {
            // Owned: to the application, whose kernel deals with what it has of the flow.
            (Ownership::Owner, Socket::None | Socket::Alive | Socket::TimeWait) => Ingress::Pass,
            // Alive here: the kernel that holds the socket answers (RFC 5961), whoever owns the flow.
            (Ownership::NotOwner | Ownership::LeaseExpired | Ownership::NoRing, Socket::Alive) => {
                Ingress::Challenge
            }
            // Every node sees every SYN: the one with the TIME_WAIT socket gets rid of it.
            (
                Ownership::NotOwner | Ownership::LeaseExpired | Ownership::NoRing,
                Socket::TimeWait,
            ) => Ingress::KillTimeWait,
            (Ownership::NotOwner, Socket::None) => Ingress::Drop(DropReason::NotOwner),
            (Ownership::LeaseExpired, Socket::None) => Ingress::Drop(DropReason::LeaseExpired),
            (Ownership::NoRing, Socket::None) => Ingress::Drop(DropReason::NoRing),
        };
        assert_eq!(ingress_l4(&syn, &facts), expected);
        let expected = match (facts.public, facts.cookie) {
            // A connection stays where its socket is.
            (Socket::Alive | Socket::TimeWait, false | true) => Ingress::Pass,
            // A listener that sent a SYN cookie has no socket yet.
            (Socket::None, true) => Ingress::Pass,
            // Anything else: at the lowest cost.
            (Socket::None, false) => Ingress::Drop(DropReason::NotMine),
        };
        for kind in KINDS {
            assert_eq!(ingress_l4(&header(kind), &facts), expected, "{kind:?}");
        }
    }
}

/// What a SYN is to the connection that the entries are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Syn {
    Duplicate,
    LaterNumber,
    LaterTimestamp,
    Older,
}

const SYNS: [Syn; 4] = [
    Syn::Duplicate,
    Syn::LaterNumber,
    Syn::LaterTimestamp,
    Syn::Older,
];

impl Syn {
    fn segment(self) -> (TcpHeader, OptionScan) {
        let (seq, options) = match self {
            Self::Duplicate => (X, no_options()),
            Self::LaterNumber => (ACKED.plus(1), no_options()),
            Self::LaterTimestamp => (X.plus(1), timestamps(ECHOED + 1, 0)),
            Self::Older => (X.plus(1), timestamps(ECHOED, 0)),
        };
        let header = TcpHeader {
            seq,
            flags: SYN,
            ..TcpHeader::default()
        };
        (header, options)
    }
}

/// What the processing half says to a SYN: an outcome, or whether its connection is known to be over.
fn processing_half(processing: Processing, socket: Socket, syn: Syn) -> Result<bool, Ingress> {
    let live = match processing {
        Processing::None => return Ok(false),
        Processing::Begun
        | Processing::Greeted
        | Processing::Handing
        | Processing::Confirmed
        | Processing::Direct => true,
        // The sweep has found its socket in TIME_WAIT or gone, and tells who inspected it.
        Processing::Ended | Processing::Noted | Processing::EndedSelf => false,
    };
    match (live, socket, syn) {
        // A live flow's kernel sends a challenge ACK; nothing else may happen to the flow.
        (
            true,
            Socket::Alive,
            Syn::Duplicate | Syn::LaterNumber | Syn::LaterTimestamp | Syn::Older,
        ) => Err(Ingress::Challenge),
        // The listener would take it for a connection of its own.
        (true, Socket::TimeWait | Socket::None, Syn::Duplicate)
        | (false, Socket::Alive | Socket::TimeWait | Socket::None, Syn::Duplicate) => {
            Err(Ingress::Drop(DropReason::DuplicateSyn))
        }
        // RFC 6191: only a later number or timestamp ends a TIME_WAIT.
        (true, Socket::TimeWait, Syn::Older) => Err(Ingress::Challenge),
        (true, Socket::TimeWait, Syn::LaterNumber | Syn::LaterTimestamp)
        | (true, Socket::None, Syn::LaterNumber | Syn::LaterTimestamp | Syn::Older)
        | (
            false,
            Socket::Alive | Socket::TimeWait | Socket::None,
            Syn::LaterNumber | Syn::LaterTimestamp | Syn::Older,
        ) => Ok(true),
    }
}

/// The rules (docs/packets.md) for a SYN of an inspected service.
fn syn_rule(inspecting: Inspecting, processing: Processing, syn: Syn, facts: &Known) -> Ingress {
    let over = match processing_half(processing, facts.public, syn) {
        Ok(over) => over,
        Err(outcome) => return outcome,
    };
    match (facts.ownership, over) {
        (Ownership::Owner, false | true) => {}
        (Ownership::NotOwner, true) => {
            return match processing {
                // Whoever inspected the last connection has said that it knows, or was this node itself.
                Processing::Noted | Processing::EndedSelf => Ingress::Forget,
                // He still takes the flow for alive.
                Processing::None
                | Processing::Begun
                | Processing::Greeted
                | Processing::Handing
                | Processing::Confirmed
                | Processing::Direct
                | Processing::Ended => Ingress::Release,
            };
        }
        (Ownership::NotOwner, false) => return Ingress::Drop(DropReason::NotOwner),
        (Ownership::LeaseExpired, false | true) => {
            return Ingress::Drop(DropReason::LeaseExpired);
        }
        (Ownership::NoRing, false | true) => return Ingress::Drop(DropReason::NoRing),
    }
    let again = match syn {
        Syn::Duplicate => true,
        Syn::LaterNumber | Syn::LaterTimestamp | Syn::Older => false,
    };
    match (inspecting, again) {
        (Inspecting::None, false | true) => Ingress::Begin,
        // A lost SYN-ACK: the inspector's kernel sends it again.
        (Inspecting::Inspect, true) => Ingress::ToInspector,
        (Inspecting::Frozen | Inspecting::Placed | Inspecting::PlacedSelf, true) => {
            Ingress::Drop(DropReason::DuplicateSyn)
        }
        (Inspecting::Inspect, false) => match facts.inspector {
            Socket::Alive => Ingress::ToInspector,
            Socket::TimeWait | Socket::None => Ingress::Begin,
        },
        // "The owner of a flow it knows to be alive elsewhere starts nothing."
        (Inspecting::Frozen, false) => Ingress::Drop(DropReason::AliveElsewhere),
        (Inspecting::Placed, false) => match over {
            true => Ingress::Begin,
            false => Ingress::Drop(DropReason::AliveElsewhere),
        },
        // The other half was here: it is over, or gone.
        (Inspecting::PlacedSelf, false) => match processing {
            Processing::None
            | Processing::Begun
            | Processing::Greeted
            | Processing::Handing
            | Processing::Confirmed
            | Processing::Direct
            | Processing::Ended
            | Processing::Noted
            | Processing::EndedSelf => Ingress::Begin,
        },
    }
}

#[test]
fn l7_syn_table_is_exhaustive() {
    for inspecting in INSPECTING {
        for processing in PROCESSING {
            for syn in SYNS {
                for facts in every_fact() {
                    let (header, options) = syn.segment();
                    let (mut i, mut p) = (inspecting.entry(), processing.entry());
                    let before = (i, p);
                    let outcome =
                        ingress_l7(&header, &options, i.as_mut(), p.as_mut(), NOW, &facts);
                    assert_eq!(
                        outcome,
                        syn_rule(inspecting, processing, syn, &facts),
                        "{inspecting:?} {processing:?} {syn:?} {:?} public {:?} inspector {:?}",
                        facts.ownership,
                        facts.public,
                        facts.inspector
                    );
                    // Anybody can send a SYN: it must not even keep an entry young. But a flow that may be
                    // alive elsewhere no more is asked about.
                    if outcome == Ingress::Drop(DropReason::AliveElsewhere) {
                        let doubted = i.as_mut().expect("the flow was placed");
                        assert!(doubted.has(flag::DOUBTED));
                        doubted.flags &= !flag::DOUBTED;
                    }
                    assert_eq!((i, p), before, "a SYN changes nothing else of an entry");
                }
            }
        }
    }
}

/// The entries decide, not the socket table.
#[test]
fn l7_segment_table_is_exhaustive() {
    for inspecting in INSPECTING {
        for processing in PROCESSING {
            for kind in KINDS {
                for facts in every_fact() {
                    let (mut i, mut p) = (inspecting.entry(), processing.entry());
                    let outcome = ingress_l7(
                        &header(kind),
                        &timestamps(31, 0),
                        i.as_mut(),
                        p.as_mut(),
                        NOW,
                        &facts,
                    );
                    let reset = matches!(kind, Kind::Rst | Kind::RstAck);
                    let begins = matches!(kind, Kind::Data | Kind::Fin);
                    let expected = match (processing, inspecting) {
                        (
                            Processing::Greeted,
                            Inspecting::None
                            | Inspecting::Inspect
                            | Inspecting::Frozen
                            | Inspecting::Placed
                            | Inspecting::PlacedSelf,
                        ) if reset => Ingress::ToServer,
                        // The inspecting node has the first byte, and may still give it to another one.
                        (
                            Processing::Handing,
                            Inspecting::None
                            | Inspecting::Inspect
                            | Inspecting::Frozen
                            | Inspecting::Placed
                            | Inspecting::PlacedSelf,
                        ) if begins => Ingress::Drop(DropReason::TooEarly),
                        // From the SYN-ACK on the client's own segments are accepted, also before the
                        // handover is complete.
                        (
                            Processing::Handing
                            | Processing::Confirmed
                            | Processing::Direct
                            | Processing::Ended
                            | Processing::Noted
                            | Processing::EndedSelf,
                            Inspecting::None
                            | Inspecting::Inspect
                            | Inspecting::Frozen
                            | Inspecting::Placed
                            | Inspecting::PlacedSelf,
                        ) => Ingress::ToServer,
                        // Before it there are no numbers to translate by.
                        (Processing::Begun | Processing::Greeted, Inspecting::None) => {
                            Ingress::Drop(DropReason::TooEarly)
                        }
                        (Processing::None, Inspecting::None) => Ingress::Drop(DropReason::NotMine),
                        // Until the server has answered, the inspector has the client, also where both are
                        // on one node: a refused connection leaves the client a live inspector.
                        (
                            Processing::None | Processing::Begun | Processing::Greeted,
                            Inspecting::Inspect,
                        ) => Ingress::ToInspector,
                        (
                            Processing::None | Processing::Begun | Processing::Greeted,
                            Inspecting::Frozen | Inspecting::Placed | Inspecting::PlacedSelf,
                        ) => Ingress::Drop(DropReason::HandedOver),
                    };
                    assert_eq!(outcome, expected, "{processing:?} {inspecting:?} {kind:?}");
                    let noted = i.is_some_and(|e| (e.client_tsval, e.window) == (31, 99));
                    assert_eq!(
                        noted,
                        outcome == Ingress::ToInspector,
                        "what the client said last"
                    );
                    let used = p.is_some_and(|e| e.used_at == NOW);
                    // One that may be given up is not kept by it.
                    let open = matches!(processing, Processing::Greeted | Processing::Handing);
                    let expected = outcome == Ingress::ToServer && !open;
                    assert_eq!(used, expected, "the entry was of use");
                    let ended = |e: ConnEntry| e.has(flag::ENDED);
                    let was = processing.entry().is_some_and(ended);
                    // A reset may end the socket's TIME_WAIT.
                    let still = was && !matches!(kind, Kind::Rst | Kind::RstAck);
                    assert_eq!(p.is_some_and(ended), still, "{processing:?} {kind:?}");
                }
            }
        }
    }
}

/// During a handover, what the server has seen of the client's clock is noted: the inspecting node must not be behind it.
#[test]
fn the_latest_timestamp_is_noted_during_a_handover() {
    let (x, y) = (Seq(0xffff_fff0), Seq(77));
    let from = |seq: u32, ack: u32| TcpHeader {
        seq: x.plus(1).plus(seq),
        ack: y.plus(1).plus(ack),
        flags: ACK,
        payload: 5,
        ..TcpHeader::default()
    };
    for (state, flags, value, header, noted) in [
        (state::HANDING, flag::ANSWERED, 31, from(1, 0), 31),
        (state::HANDING, flag::ANSWERED, 31, from(1448, 300), 31),
        (state::HANDING, flag::ANSWERED, 29, from(1, 0), 30),
        // Somebody else's: the numbers are not the client's.
        (state::HANDING, flag::ANSWERED, 31, from(1 << 20, 0), 30),
        (state::HANDING, flag::ANSWERED, 31, from(0, 1 << 20), 30),
        (state::HANDING, flag::ANSWERED, 31, from(u32::MAX, 0), 30),
        // The server is shown no first byte before the inspecting node has sent it,
        (state::HANDING, flag::ANSWERED, 31, from(0, 0), 30),
        (
            state::HANDING,
            flag::ANSWERED | flag::REQUEST_END,
            31,
            from(0, 0),
            31,
        ),
        // nor anything before it has answered.
        (state::HANDING, 0, 31, from(1, 0), 30),
        // Nobody will ask.
        (state::DIRECT, flag::ANSWERED, 31, from(0, 0), 30),
    ] {
        let mut e = ConnEntry {
            state,
            flags,
            client_isn: x,
            server_isn: y,
            client_tsval: 30,
            ..ConnEntry::default()
        };
        let facts = &every_fact()[0];
        ingress_l7(
            &header,
            &timestamps(value, 1),
            None,
            Some(&mut e),
            NOW,
            facts,
        );
        assert_eq!(e.client_tsval, noted, "{state} {flags} {value} {header:?}");
    }
}
