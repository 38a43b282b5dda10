//! ARP, neighbour discovery, and ICMP.

use super::*;

pub(super) fn rows() -> Vec<Row> {
    let asked = if World::present().clients_v6 {
        ndp_rows()
    } else {
        arp_rows()
    };
    [asked, icmp_rows()].into_iter().flatten().collect()
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

fn ndp_rows() -> Vec<Row> {
    const ALL: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let [client, vip, own] = [CLIENT, VIP, OWN].map(|name| addr(name).bytes16());
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&VIP[1..]);
    let to_group = ([0x33, 0x33, 0xff, VIP[1], VIP[2], VIP[3]], CLIENT_MAC);
    let ask = |src, target| neighbour(to_group, (src, group), (135, 0), target, (1, CLIENT_MAC));
    let probe = neighbour(
        (VIP_MAC, CLIENT_MAC),
        (client, vip),
        (135, 0),
        vip,
        (1, CLIENT_MAC),
    );
    let answer = neighbour(
        (CLIENT_MAC, FRONT_MAC),
        (vip, client),
        (136, 0x60),
        vip,
        (2, VIP_MAC),
    );
    let to_all = neighbour(
        ([0x33, 0x33, 0, 0, 0, 1], FRONT_MAC),
        (vip, ALL),
        (136, 0x20),
        vip,
        (2, VIP_MAC),
    );
    let mut far = ask(client, vip);
    far[ETH + 7] = 254;
    let reply = |frame: &Vec<u8>| (Action::NeighbourReply, Out::Frame(frame.clone()));
    let row = |name, frame, out| Row::done(name, IN, frame, nothing, out);
    let mut rows = vec![
        row("who has the VIP, IPv6?", ask(client, vip), reply(&answer)),
        row("does the VIP still live there?", probe, reply(&answer)),
        row("may I take the VIP?", ask([0; 16], vip), reply(&to_all)),
        row(
            "a question from beyond a router",
            far,
            same_as(Action::Other),
        ),
        row("an advertisement", answer.clone(), {
            // To the client: nobody's business here.
            same_as(Action::Other)
        }),
    ];
    if World::present().nodes_v6 {
        let other = same_as(Action::Other);
        rows.push(row("who has the node's address?", ask(client, own), other));
    }
    rows
}

/// An error from a router that quotes `quoted`, of which it has `len` bytes after the IP header.
fn error(quoted: &Tcp, len: usize) -> Vec<u8> {
    let quoted = frame(quoted.clone());
    let end = ETH + quoted_len(&quoted[ETH..]) + len;
    let kind = if World::present().clients_v6 {
        (2, 0)
    } else {
        (3, 4)
    };
    let message = icmp(kind.0, kind.1, [0, 0, 5, 0], &quoted[ETH..end]);
    let mut frame = Ip {
        src: [198, 18, 0, 1],
        ..packet(VIP, 1, message)
    }
    .frame();
    mend(&mut frame);
    frame
}

fn quoted_len(packet: &[u8]) -> usize {
    match packet[0] >> 4 {
        4 => usize::from(packet[0] & 0x0f) * 4,
        _ => 40,
    }
}

/// The error's frame with four bytes of its quotation's TCP header replaced.
fn requoted(error: &[u8], at: usize, new: [u8; 4]) -> Vec<u8> {
    let mut frame = error.to_vec();
    let quote = ETH + ip_len() + 8;
    let tcp = quote + quoted_len(&frame[quote..]);
    frame[tcp + at..tcp + at + 4].copy_from_slice(&new);
    mend(&mut frame);
    frame
}

fn icmp_rows() -> Vec<Row> {
    let kind = if World::present().clients_v6 { 128 } else { 8 };
    let mut echo = packet(VIP, 1, icmp(kind, 0, [0, 1, 0, 1], &[9; 57])).frame();
    mend(&mut echo);
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
