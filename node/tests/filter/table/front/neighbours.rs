//! ARP, and ICMP.

use super::*;

pub(super) fn rows() -> Vec<Row> {
    [arp_rows(), icmp_rows()].into_iter().flatten().collect()
}

fn arp_rows() -> Vec<Row> {
    let ask = |target| {
        arp(
            [0xff; 6],
            CLIENT_MAC,
            1,
            (CLIENT_MAC, CLIENT),
            ([0; 6], target),
        )
    };
    let answer = arp(
        CLIENT_MAC,
        FRONT_MAC,
        2,
        (VIP_MAC, VIP),
        (CLIENT_MAC, CLIENT),
    );
    let own = |sender: ([u8; 6], [u8; 4])| arp([0xff; 6], FRONT_MAC, 1, sender, ([0; 6], CLIENT));
    vec![
        Row::done(
            "who has the VIP?",
            IN,
            ask(VIP),
            nothing,
            (Action::ArpReply, Out::Frame(answer.clone())),
        ),
        Row::done(
            "who has the node's address?",
            IN,
            ask(OWN),
            nothing,
            same_as(Action::Other),
        ),
        Row::done("an ARP answer", IN, answer, nothing, same_as(Action::Other)),
        Row::done(
            "a question that would tie the VIP to the node",
            OUT,
            own((FRONT_MAC, VIP)),
            nothing,
            (Action::ArpRewritten, Out::Frame(own((VIP_MAC, VIP)))),
        ),
        Row::done(
            "a question in the node's own name",
            OUT,
            own((FRONT_MAC, OWN)),
            nothing,
            same_as(Action::Other),
        ),
        Row::done(
            "a VIP that is tied to its own address",
            OUT,
            own((VIP_MAC, VIP)),
            nothing,
            same_as(Action::Other),
        ),
    ]
}

/// An error from a router that quotes `quoted`, of which it has `len` bytes after the IP header.
fn error(quoted: &Tcp, len: usize) -> Vec<u8> {
    let quoted = frame(quoted.clone());
    let end = ETH + 20 + quoted_options(&quoted) + len;
    let message = icmp(3, 4, [0, 0, 5, 0], &quoted[ETH..end]);
    Ip {
        src: [198, 18, 0, 1],
        ..packet(VIP, 1, message)
    }
    .frame()
}

fn quoted_options(frame: &[u8]) -> usize {
    usize::from(frame[ETH] & 0x0f) * 4 - 20
}

/// The error's frame with four bytes of its quotation's TCP header replaced.
fn requoted(error: &[u8], at: usize, new: [u8; 4]) -> Vec<u8> {
    let mut frame = error.to_vec();
    let quote = ETH + 20 + 8;
    let tcp = quote + usize::from(frame[quote] & 0x0f) * 4;
    frame[tcp + at..tcp + at + 4].copy_from_slice(&new);
    mend(&mut frame);
    frame
}

fn icmp_rows() -> Vec<Row> {
    let echo = packet(VIP, 1, icmp(8, 0, [0, 1, 0, 1], &[9; 57])).frame();
    let sent = server(&web(), Y.wrapping_add(77), 1, ACK);
    let with_options = Tcp {
        ip_options: vec![1; 12],
        ..sent.clone()
    };
    let own_seq = W.wrapping_add(77).to_be_bytes();
    let [p, q] = INSPECTOR.to_be_bytes();
    let [r, s] = 40_000u16.to_be_bytes();
    let mut rows = vec![
        Row::done(
            "an echo request",
            IN,
            echo.clone(),
            nothing,
            same_as(Action::Echo),
        ),
        Row::drop(
            "another's echo request",
            IN,
            echo.clone(),
            not_owner,
            DropReason::NotOwner,
        ),
        Row::drop(
            "an echo request after the lease",
            IN,
            echo,
            |bench| bench.lease(false),
            DropReason::LeaseExpired,
        ),
        Row::drop(
            "a request for the time",
            IN,
            packet(VIP, 1, icmp(13, 0, [0; 4], &[0; 12])).frame(),
            nothing,
            DropReason::NoService,
        ),
        Row::drop(
            "an error about a flow that we know nothing of",
            IN,
            error(&sent, 8),
            nothing,
            DropReason::NotMine,
        ),
        Row::drop(
            "an error about a flow that is at another node",
            IN,
            error(&sent, 8),
            placed,
            DropReason::NotMine,
        ),
        Row::drop(
            "an error that quotes too little",
            IN,
            error(&sent, 7),
            direct,
            DropReason::Malformed,
        ),
    ];
    for quoted in [&sent, &with_options] {
        for len in [8, 20] {
            let error = error(quoted, len);
            let translated = requoted(&error, 4, own_seq);
            rows.push(Row::done(
                "an error about a server's segment",
                IN,
                error.clone(),
                direct,
                (Action::IcmpError, Out::Frame(translated)),
            ));
            let translated = requoted(&error, 0, [p, q, r, s]);
            rows.push(Row::done(
                "an error about an inspector's segment",
                IN,
                error,
                inspected,
                (Action::IcmpError, Out::Frame(translated)),
            ));
        }
    }
    rows
}
