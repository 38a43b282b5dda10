//! Extension headers of clients' IPv6 packets.

use super::*;

/// IPv6 extension headers in clients' packets.
pub(super) fn rows() -> Vec<Row> {
    if !World::present().clients_v6 {
        return vec![];
    }
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    /// One header's length and options, which are padding (RFC 8200 §4.2).
    const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
    /// No segments left, of a type that is nobody's (RFC 8200 §4.4).
    const NO_WAY: [u8; 7] = [0, 253, 0, 0, 0, 0, 0];
    /// First and last; the bits that are reserved are set (RFC 6946).
    const ATOMIC: [u8; 7] = [0xff, 0, 6, 0, 0, 0, 9];
    let data = || frame(client(&web(), X.wrapping_add(1), Y.wrapping_add(1), DATA));
    let atomic = |name, packet: &Vec<u8>| {
        Row::done(
            name,
            IN,
            extended(packet.clone(), FRAGMENT, &ATOMIC),
            nothing,
            (Action::AtomicFragment, Out::Frame(packet.clone())),
        )
    };
    let drop = |name, frame, reason| Row::drop(name, IN, frame, nothing, reason);
    let in_atomic = extended(data(), FRAGMENT, &ATOMIC);
    let mut short = in_atomic.clone();
    short[ETH + 5] = 7;
    let echo = packet(VIP, 1, icmp(128, 0, [0, 1, 0, 1], &[9; 57])).frame();
    let no_service = frame(syn(&flow(1, 443)));
    vec![
        atomic("a SYN in an atomic fragment", &frame(syn(&web()))),
        atomic("a segment in an atomic fragment", &data()),
        atomic("an atomic fragment to no service", &no_service),
        drop(
            "an atomic fragment in an atomic fragment",
            extended(in_atomic.clone(), FRAGMENT, &ATOMIC),
            DropReason::Fragment,
        ),
        drop(
            "an echo request in an atomic fragment",
            extended(echo, FRAGMENT, &ATOMIC),
            DropReason::Fragment,
        ),
        drop(
            "an atomic fragment that ends in its header",
            short,
            DropReason::Malformed,
        ),
        drop(
            "destination options before a segment",
            extended(data(), DESTINATION, &PADDING),
            DropReason::ExtensionHeader,
        ),
        drop(
            "hop-by-hop options before a segment",
            extended(data(), HOP_BY_HOP, &PADDING),
            DropReason::ExtensionHeader,
        ),
        drop(
            "a routing header before a segment",
            extended(data(), ROUTING, &NO_WAY),
            DropReason::ExtensionHeader,
        ),
        drop(
            "an atomic fragment behind hop-by-hop options",
            extended(in_atomic.clone(), HOP_BY_HOP, &PADDING),
            DropReason::ExtensionHeader,
        ),
        drop(
            "a fragment behind destination options",
            extended(in_atomic, DESTINATION, &PADDING),
            DropReason::Fragment,
        ),
    ]
}
