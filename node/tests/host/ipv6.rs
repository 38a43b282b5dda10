//! The same with IPv6.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use dts_node::kernel::host::neighbours::Neighbours;
use dts_node::kernel::host::{HostSpec, Solicited};

use crate::net::{
    BACK_V6, CLIENT_V6, FRONT_V6, Net, SELF_V6, VIP, VIP_V6, block_on, exchange, link_address, mac,
    send, source, spec, spec_v6, wait_until,
};

const OTHER_VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);

#[test]
fn restores_what_it_changed() {
    let net = Net::with_ipv6();
    let before = (net.snapshot_v6(), net.snapshot());

    let applied = net.apply(&spec_v6());
    let lo = net.host.ip("addr show dev lo");
    assert!(lo.contains("inet 198.18.0.100/32 scope host lo"), "{lo}");
    let vip = "inet6 2001:db8::100/128 scope global nodad deprecated noprefixroute";
    assert!(lo.contains(vip), "{lo}");
    let groups = net.host.ip("maddr show dev eth0");
    for group in [
        "03:bf:c6:12:00:64",
        "03:bf:00:00:01:00",
        "33:33:ff:00:01:00",
    ] {
        assert!(
            groups.contains(&format!("{group} static")),
            "{group}: {groups}"
        );
    }
    let route = net.host.ip("-6 route show 100::4454");
    let wanted = "100::4454 dev eth1 proto static src 2001:db8:1::11 metric";
    assert!(route.trim().starts_with(wanted), "{route}");
    let neighbour = net.host.neighbour(SELF_V6);
    let own = format!("lladdr {} PERMANENT", mac(applied.back_mac));
    assert!(neighbour.contains(&own), "{neighbour}");

    // Nothing is made twice, and nothing that is in place is made again.
    let state = fs::read(net.state_file()).expect("a state file");
    let complete = net.snapshot_v6();
    net.apply(&spec_v6());
    assert_eq!(fs::read(net.state_file()).expect("a state file"), state);
    assert_eq!(net.snapshot_v6(), complete);

    net.restore();
    assert_eq!((net.snapshot_v6(), net.snapshot()), before);
    assert!(!net.state_file().exists());
}

#[test]
fn vips_come_and_go() {
    let net = Net::with_ipv6();
    let before = net.snapshot_v6();
    net.apply(&spec_v6());
    // The last four bytes of the one are the other's group's.
    let twin = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 7, 0, 0x100);
    let changed = HostSpec {
        vips: vec![OTHER_VIP.into(), twin.into()],
        ..spec_v6()
    };
    net.apply(&changed);
    let lo = net.host.ip("-6 addr show dev lo");
    assert!(!lo.contains("2001:db8::100/"), "{lo}");
    assert!(lo.contains("2001:db8::12:3456/128"), "{lo}");
    let groups = net.host.ip("maddr show dev eth0");
    for group in [
        "03:bf:00:12:34:56",
        "33:33:ff:12:34:56",
        "03:bf:00:00:01:00",
    ] {
        assert!(
            groups.contains(&format!("{group} static")),
            "{group}: {groups}"
        );
    }
    assert!(!groups.contains("03:bf:c6:12:00:64"), "{groups}");
    net.restore();
    assert_eq!(net.snapshot_v6(), before);
}

#[test]
fn leaves_what_it_found_in_place() {
    let net = Net::with_ipv6();
    let back_mac = link_address(&net.host, "eth1");
    net.host.ip("addr add 2001:db8::100/128 dev lo nodad");
    net.host.ip("maddr add 03:bf:00:00:01:00 dev eth0");
    net.host
        .ip("route add 100::4454 dev eth1 src 2001:db8:1::11");
    net.host
        .ip(&format!("neigh add 100::4454 lladdr {back_mac} dev eth1"));
    let before = net.snapshot_v6();
    net.apply(&spec_v6());
    net.restore();
    assert_eq!(net.snapshot_v6(), before);
}

#[test]
fn applying_again_puts_back_what_an_interface_lost() {
    let net = Net::with_ipv6();
    net.apply(&spec_v6());
    net.host.ip("link set eth1 down");
    net.host.ip("link set eth1 up");
    net.wait_until_up();
    // The address went with the interface; whoever manages the network brings it back.
    let error = net
        .try_apply(&spec_v6())
        .expect_err("no address")
        .to_string();
    let text = "address 2001:db8:1::11 is not on eth1 (back), which has 198.18.1.11: ";
    assert!(error.starts_with(text), "{error}");
    net.host.ip("addr add 2001:db8:1::11/64 dev eth1 nodad");
    assert_eq!(net.host.ip("-6 route show 100::4454"), "");
    net.apply(&spec_v6());
    assert_ne!(net.host.ip("-6 route show 100::4454"), "");
    let neighbour = net.host.neighbour(SELF_V6);
    assert!(neighbour.contains("PERMANENT"), "{neighbour}");
}

#[test]
fn says_what_is_wrong_with_the_host() {
    let net = Net::with_ipv6();
    let before = net.snapshot_v6();
    let with = |change: fn(&mut HostSpec)| {
        let mut spec = spec_v6();
        change(&mut spec);
        let error = net.try_apply(&spec).expect_err("a wrong host");
        error.to_string()
    };
    assert_eq!(
        with(|spec| spec.address = FRONT_V6.into()),
        "address 2001:db8::11 is not on eth1 (back) but on eth0: correct `address` or `back` in \
         [node]"
    );
    assert_eq!(
        with(|spec| spec.vips.push(FRONT_V6.into())),
        "VIP 2001:db8::11 is on eth0, so this node would answer neighbour solicitations for it \
         with its own link address: run `ip address del 2001:db8::11/64 dev eth0` (DTS puts it on \
         lo)"
    );
    assert_eq!(
        with(|spec| spec.vips.push("fe80::100".parse().expect("an address"))),
        "address fe80::100 cannot be a VIP: it is not a host's address"
    );
    assert_eq!(
        with(|spec| spec.self_address = BACK_V6.into()),
        "self address 2001:db8:1::11 is an address of this host, of a whole network or of a \
         group: remove it, or set another `self_address` in [node], one that no host has"
    );
    assert_eq!(net.snapshot_v6(), before);

    net.host.ip("route add 100::4454 dev eth0");
    let error = net.try_apply(&spec_v6()).expect_err("a route").to_string();
    let text = "there is a route to the self address 100::4454 by eth0 that is not DTS's: ";
    assert!(error.starts_with(text), "{error}");
    net.host.ip("route del 100::4454 dev eth0");

    net.host.write("net/ipv6/conf/eth0/disable_ipv6", "1");
    assert_eq!(
        with(|_| ()),
        "IPv6 is off on eth0, and 2001:db8::100 needs it: set net.ipv6.conf.eth0.disable_ipv6 to 0"
    );
    // Who has no service of IPv6 needs none there.
    net.apply(&HostSpec {
        vips: vec![VIP.into()],
        ..spec_v6()
    });
    net.restore();
}

/// Before there is a filter and after it is gone; no setting is needed for this, unlike with ARP.
#[test]
fn the_kernel_never_ties_a_vip_to_the_nodes_own_link_address() {
    let net = Net::with_ipv6();
    let own = link_address(&net.host, "eth0");
    let ties = || net.outside.neighbour(VIP_V6).contains(&own);

    // What it looks like where the kernel does speak for the address.
    net.host.ip("addr add 2001:db8::100/128 dev eth0 nodad");
    send(&net.outside, CLIENT_V6, VIP_V6);
    wait_until("the answer for an address of the interface", ties);
    net.host.ip("addr del 2001:db8::100/128 dev eth0");

    net.apply(&spec_v6());
    net.outside.ip("-6 neigh flush all");
    // A question for the VIP. The kernel answers within a moment or not at all.
    send(&net.outside, CLIENT_V6, VIP_V6);
    thread::sleep(Duration::from_millis(300));
    assert!(!ties(), "{}", net.outside.neighbour(VIP_V6));

    // A question of the node's, when it sends from the VIP.
    net.host.ip("-6 neigh flush dev eth0");
    send(&net.host, VIP_V6, CLIENT_V6);
    wait_until("the node's question", || {
        net.host.neighbour(CLIENT_V6).contains("lladdr")
    });
    assert!(!ties(), "{}", net.outside.neighbour(VIP_V6));
}

#[test]
fn the_kernel_accepts_connections_to_the_vip_and_never_chooses_it_as_source() {
    let net = Net::with_ipv6();
    net.apply(&spec_v6());
    let front = link_address(&net.host, "eth0");
    // The filter's part: it resolves the VIP.
    net.outside
        .ip(&format!("neigh replace {VIP_V6} lladdr {front} dev f0"));
    let (there, here) = exchange(&net.host, &net.outside, VIP_V6);
    assert_eq!(there.ip(), CLIENT_V6);
    assert_eq!(here.ip(), CLIENT_V6);

    // With no address left that suits the front better.
    net.host.ip("addr del 2001:db8::11/64 dev eth0");
    net.host.ip("route add 2001:db8::/64 dev eth0");
    assert_eq!(source(&net.host, CLIENT_V6), BACK_V6);
}

#[test]
fn connections_to_the_self_address_leave_and_return_at_the_back() {
    let net = Net::with_ipv6();
    net.apply(&spec_v6());
    let back = link_address(&net.host, "eth1");
    net.outside.ip(&format!("link set b0 address {back}"));
    net.outside
        .ip(&format!("addr add {SELF_V6}/128 dev b0 nodad"));
    net.outside.ip(&format!("route add {BACK_V6} dev b0"));
    net.outside
        .ip(&format!("neigh replace {BACK_V6} lladdr {back} dev b0"));
    let (there, here) = exchange(&net.outside, &net.host, SELF_V6);
    assert_eq!(there.ip(), BACK_V6);
    assert_eq!(here.ip(), BACK_V6);
}

#[test]
fn a_host_without_ipv6_services_may_have_it_turned_off() {
    let net = Net::new();
    let before = net.snapshot();
    net.apply(&spec());
    let error = net
        .try_apply(&HostSpec {
            vips: vec![VIP_V6.into()],
            ..spec()
        })
        .expect_err("no IPv6")
        .to_string();
    assert!(error.starts_with("IPv6 is off on eth0, "), "{error}");
    net.restore();
    assert_eq!(net.snapshot(), before);
}

/// The memberships that the network is told of.
#[test]
fn the_network_is_told_who_wants_to_be_solicited() {
    let net = Net::with_ipv6();
    let before = net.snapshot_v6();
    let index = net.apply(&spec_v6()).front_index;
    let groups = || net.host.ip("maddr show dev eth0");
    let (group, other) = ("inet6 ff02::1:ff00:100", "inet6 ff02::1:ff12:3456");
    assert!(!groups().contains(group), "{}", groups());
    let follow = |mut solicited: Solicited, vips: &[IpAddr]| {
        net.host.within(|| {
            solicited.follow(index, vips).expect("joined");
            solicited
        })
    };
    let both = [VIP.into(), VIP_V6.into()];
    let solicited = follow(Solicited::default(), &both);
    assert!(groups().contains(group), "{}", groups());
    let solicited = follow(solicited, &[OTHER_VIP.into()]);
    assert!(!groups().contains(group), "{}", groups());
    assert!(groups().contains(other), "{}", groups());
    // The network card lets them pass also when the daemon is gone.
    drop(solicited);
    assert!(!groups().contains(other), "{}", groups());
    assert!(
        groups().contains("33:33:ff:00:01:00 static"),
        "{}",
        groups()
    );
    net.restore();
    assert_eq!(net.snapshot_v6(), before);
}

#[test]
fn members_link_addresses_are_found() {
    let net = Net::with_ipv6();
    let member = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x12);
    let nobody = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x13);
    net.outside
        .ip(&format!("addr add {member}/64 dev b0 nodad"));
    let theirs = link_address(&net.outside, "b0");
    let index = net.apply(&spec_v6()).back_index;
    let members = [member, nobody].map(IpAddr::V6);
    wait_until("the member's link address", || {
        let known = net.host.within(|| {
            block_on(async {
                let neighbours = Neighbours::connect().expect("a socket");
                neighbours.look(index, &members).await.expect("a table")
            })
        });
        assert!(!known.contains_key(&members[1]));
        known
            .get(&members[0])
            .is_some_and(|found| mac(*found) == theirs)
    });
}
