//! What the filter did with a packet. One counter for each verdict and each drop reason.
//!
//! Every run of a filter program adds one to exactly one counter, so the counters of a node add up
//! to the packets that its programs saw.

macro_rules! counted {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every value, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name used in metrics, in the command's output and in the documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

counted! {
    /// Why a packet was dropped.
    DropReason {
        /// A SYN, or an echo request, whose arc of the ring belongs to another node.
        NotOwner = "not_owner",
        /// A SYN of this node's arc while its lease has run out: the daemon is gone or stuck.
        LeaseExpired = "lease_expired",
        /// A SYN while no ring has been published, or the ring has no points.
        NoRing = "no_ring",
        /// A segment of a connection that another node holds.
        NotMine = "not_mine",
        /// A packet to a VIP that is for none of its services.
        NoService = "no_service",
        /// A packet from the front to an inspector's port.
        InspectorPort = "inspector_port",
        /// A fragment: it has no ports, or not the whole segment.
        Fragment = "fragment",
        /// A packet with IPv6 extension headers that no client's TCP has use for.
        ExtensionHeader = "extension_header",
        /// Headers that contradict themselves or end too early.
        Malformed = "malformed",
        /// A SYN of a flow that is alive on another node, or is being handed over.
        AliveElsewhere = "alive_elsewhere",
        /// A repeated SYN of a connection that has been handed over already.
        DuplicateSyn = "duplicate_syn",
        /// A client's segment at the node that inspected the connection: the other node has it.
        HandedOver = "handed_over",
        /// A client's segment before the processing node's own SYN-ACK, or one that begins a request, or what the server
        /// says, before the inspecting node has confirmed the handover.
        TooEarly = "too_early",
        /// The connection table is full.
        TableFull = "table_full",
        /// A segment that this node sends from a VIP without an entry for the flow.
        NoEntry = "no_entry",
        /// What the inspector's socket still wanted to send after the handover had begun.
        Frozen = "frozen",
        /// The reset of a missing inspector: the client retries and meets a live one.
        InspectorGone = "inspector_gone",
        /// A handover frame that did not come over the back network.
        HandoverOnFront = "handover_on_front",
        /// A handover frame from an address that is no member of the cluster.
        NotMember = "not_member",
        /// A handover SYN without a well-formed DTS option.
        BadOption = "bad_option",
        /// A handover SYN whose authentication tag is wrong.
        BadTag = "bad_tag",
        /// A handover SYN, or an adoption, that was made too long ago, or by a node whose clock is wrong.
        StaleHandover = "stale_handover",
        /// A handover SYN for a service that this node doesn't have.
        UnknownService = "unknown_service",
        /// A handover SYN for a flow that has been handed over here already.
        DuplicateHandover = "duplicate_handover",
        /// A handover SYN that was accepted here before, of a connection that is over.
        ReplayedHandover = "replayed_handover",
        /// A segment of a handover connection that this node knows nothing of.
        UnknownHandover = "unknown_handover",
        /// A late segment of a handover connection that needs no answer.
        AfterHandover = "after_handover",
        /// A segment to an adopting service that answers no SYN-ACK of this cluster's, or one that is too old.
        BadCookie = "bad_cookie",
        /// A repeated request of a connection that this node's server has had already.
        DuplicateRequest = "duplicate_request",
        /// What a server still sent on a connection whose next request another node has.
        MovedAway = "moved_away",
        /// A segment of a connection that the inspector has turned away.
        Rejected = "rejected",
        /// A segment for a node whose link address is not known yet.
        NoNeighbour = "no_neighbour",
        /// A request for the daemon's inspector while the daemon is behind or gone.
        InspectorBusy = "inspector_busy",
        /// A request while the server's queue of connections to be accepted is full.
        QueueFull = "queue_full",
        /// The kernel refused to make a socket of a client's segment.
        NotAdopted = "not_adopted",
        /// A helper call of the kernel failed in the middle of a rewrite.
        RewriteFailed = "rewrite_failed",
    }
}

counted! {
    /// What happened to a packet that was not dropped.
    Action {
        /// Not for a VIP and no handover frame: untouched.
        Other = "other",
        /// To the server application as it is (mode `l4`, or a live socket of the flow).
        Pass = "pass",
        /// A client's segment to the inspector: its port rewritten.
        ToInspector = "to_inspector",
        /// An inspector's segment to the client: its port rewritten.
        FromInspector = "from_inspector",
        /// A client's segment to the processing node's server: numbers translated.
        ToServer = "to_server",
        /// The server's segment to the client: numbers translated.
        ToClient = "to_client",
        /// The server's segment that ends the handover: to the client, and a FIN to the inspecting node.
        Direct = "direct",
        /// The server's reset before the handover ended: to the client and to the inspecting node.
        ResetBoth = "reset_both",
        /// The server's segment to the inspecting node during a handover.
        ToPeer = "to_peer",
        /// A segment of a handover connection leaving the inspecting node.
        HandoverOut = "handover_out",
        /// A segment of a handover connection arriving at the inspecting node.
        HandoverReply = "handover_reply",
        /// A handover SYN that was accepted.
        HandoverSyn = "handover_syn",
        /// The third segment of a handover connection's handshake: the request says the same.
        HandoverAck = "handover_ack",
        /// A later segment of a handover connection, to the server.
        HandoverIn = "handover_in",
        /// A handover segment that the filter answered by itself.
        Answered = "answered",
        /// The second pass of a packet that came over the back network, or of a reset that the filter made.
        Redirected = "redirected",
        /// A SYN to the kernel that holds a live socket of the flow: it sends a challenge ACK (RFC 5961 §4).
        Challenge = "challenge",
        /// A SYN that ends a flow here, sent on to the node that inspected it.
        Released = "released",
        /// A SYN that another node released to this one.
        ReleaseIn = "release_in",
        /// A SYN turned into the reset that removes a TIME_WAIT socket.
        TimeWaitKilled = "time_wait_killed",
        /// The FIN of an inspector's socket whose daemon died in mid-handover, made the reset that ends it.
        OrphanReset = "orphan_reset",
        /// What a server's socket of an older connection of the flow says to a handover SYN, made the reset that ends
        /// it.
        StaleReset = "stale_reset",
        /// A SYN that the filter answered with a cookie.
        SynAnswered = "syn_answered",
        /// A client's FIN without a request, answered by the filter.
        FinAnswered = "fin_answered",
        /// A client's segment for the daemon's inspector, which acknowledges nothing.
        Inquired = "inquired",
        /// A client's segment sent on to the node whose server shall have it.
        SentOn = "sent_on",
        /// A client's first segment given to the server's listener: the kernel makes a socket of it.
        Adopted = "adopted",
        /// A request of a connection that this node's server has, given to another node. Here the connection ends.
        MovedOn = "moved_on",
        /// A request that no server of this node's takes: back to the node that sent it on, or reset by the kernel.
        Refused = "refused",
        /// A request that no server takes: its client reset.
        ResetClient = "reset_client",
        /// An ARP request for a VIP, answered with the multicast address.
        ArpReply = "arp_reply",
        /// An IPv6 neighbour solicitation for a VIP, answered with the multicast address.
        NeighbourReply = "neighbour_reply",
        /// An ARP packet of this node's own that named a VIP: sender address rewritten.
        ArpRewritten = "arp_rewritten",
        /// A segment in an atomic fragment (RFC 6946): without the fragment header it arrives once more.
        AtomicFragment = "atomic_fragment",
        /// An ICMP echo request that this node answers.
        Echo = "echo",
        /// An ICMP error about a flow of this node: its quotation translated.
        IcmpError = "icmp_error",
    }
}

/// The outcome of one run of a filter program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// The packet went on.
    Done(Action),
    /// The packet was dropped.
    Drop(DropReason),
}

/// The number of counters, `Action`s first.
pub const COUNTERS: u32 = (Action::ALL.len() + DropReason::ALL.len()) as u32;

impl Verdict {
    /// The index of this verdict's counter, below [`COUNTERS`].
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        match self {
            Self::Done(action) => action as u32,
            Self::Drop(reason) => Action::ALL.len() as u32 + reason as u32,
        }
    }

    /// The verdict that a counter counts; `None` from [`COUNTERS`] on.
    #[must_use]
    pub fn from_counter(index: u32) -> Option<Self> {
        let index = index as usize;
        match Action::ALL.get(index) {
            Some(action) => Some(Self::Done(*action)),
            None => DropReason::ALL
                .get(index.wrapping_sub(Action::ALL.len()))
                .map(|r| Self::Drop(*r)),
        }
    }

    /// The counter's name, e.g. `to_inspector` or `not_owner`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done(action) => action.name(),
            Self::Drop(reason) => reason.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_dense_and_reversible() {
        for index in 0..COUNTERS {
            assert_eq!(Verdict::from_counter(index).unwrap().counter(), index);
        }
        assert_eq!(Verdict::from_counter(COUNTERS), None);
        assert_eq!(Verdict::from_counter(u32::MAX), None);
    }

    #[test]
    fn names_are_unique() {
        for a in 0..COUNTERS {
            for b in 0..a {
                let (a, b) = (
                    Verdict::from_counter(a).unwrap(),
                    Verdict::from_counter(b).unwrap(),
                );
                assert_ne!(a.name(), b.name());
            }
        }
    }
}
