//! Setting up a host and putting it back, on hosts in network namespaces. Needs root.

mod ipv6;
mod net;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use dts_node::kernel::host::{Host, HostError, HostSpec, prepare_bpf, require_privileges};
use net::{
    BACK, CLIENT, FRONT, Net, SELF, VIP, block_on, exchange, link_address, mac, send, source, spec,
    wait_until,
};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 101);
const ARP_IGNORE: &str = "net/ipv4/conf/eth0/arp_ignore";
const ARP_ANNOUNCE: &str = "net/ipv4/conf/eth0/arp_announce";

#[test]
fn restores_what_it_changed() {
    let net = Net::new();
    let before = net.snapshot();

    let applied = net.apply(&spec());
    let lo = net.host.ip("addr show dev lo");
    assert!(lo.contains("inet 198.18.0.100/32 scope host lo"), "{lo}");
    let groups = net.host.ip("maddr show dev eth0");
    assert!(groups.contains("03:bf:c6:12:00:64 static"), "{groups}");
    let route = net.host.ip("route show 169.254.68.84");
    let wanted = "169.254.68.84 dev eth1 proto static scope link src 198.18.1.11";
    assert_eq!(route.trim(), wanted);
    let neighbour = net.host.neighbour(SELF);
    let own = format!("lladdr {} PERMANENT", mac(applied.back_mac));
    assert!(neighbour.contains(&own), "{neighbour}");
    for interface in ["eth0", "eth1"] {
        for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            let key = format!("net/ipv4/conf/{interface}/{key}");
            assert_eq!(net.host.read(&key), value, "{key}");
        }
    }
    for (name, index, link) in [
        ("eth0", applied.front_index, applied.front_mac),
        ("eth1", applied.back_index, applied.back_mac),
    ] {
        let line = net.host.ip(&format!("-o link show dev {name}"));
        assert!(line.starts_with(&format!("{index}: ")), "{line}");
        assert!(line.contains(&mac(link)), "{line}");
    }

    net.restore();
    assert_eq!(net.snapshot(), before);
    assert!(!net.state_file().exists());
    // Once more, with nothing to do.
    net.restore();
}

#[test]
fn works_with_one_interface_for_both_networks() {
    let net = Net::new();
    let before = net.snapshot();
    let spec = HostSpec {
        back: "eth0".into(),
        address: FRONT.into(),
        ..spec()
    };
    let applied = net.apply(&spec);
    assert_eq!(applied.front_index, applied.back_index);
    assert_eq!(net.host.read("net/ipv4/conf/eth1/arp_ignore"), "0");
    net.restore();
    assert_eq!(net.snapshot(), before);
}

#[test]
fn applying_again_keeps_the_first_values_and_removes_what_left() {
    let net = Net::new();
    net.host.write(ARP_ANNOUNCE, "1");
    let before = net.snapshot();

    let first = net.apply(&spec());
    let state = fs::read(net.state_file()).expect("a state file");
    assert_eq!(net.apply(&spec()), first);
    assert_eq!(fs::read(net.state_file()).expect("a state file"), state);

    // Somebody undoes half of it; a reload brings another VIP.
    net.host.write(ARP_IGNORE, "0");
    net.host.write(ARP_ANNOUNCE, "0");
    net.host.ip("route del 169.254.68.84");
    net.apply(&HostSpec {
        vips: vec![OTHER_VIP.into()],
        ..spec()
    });
    let lo = net.host.ip("addr show dev lo");
    assert!(!lo.contains(&VIP.to_string()), "{lo}");
    assert!(lo.contains(&OTHER_VIP.to_string()), "{lo}");
    let groups = net.host.ip("maddr show dev eth0");
    assert!(!groups.contains("03:bf:c6:12:00:64"), "{groups}");
    assert!(groups.contains("03:bf:c6:12:00:65"), "{groups}");
    assert_eq!(net.host.read(ARP_IGNORE), "1");
    assert_ne!(net.host.ip("route show 169.254.68.84"), "");

    net.restore();
    assert_eq!(net.snapshot(), before);
}

#[test]
fn roles_may_move_to_other_interfaces() {
    let net = Net::new();
    let before = net.snapshot();
    net.apply(&spec());
    net.apply(&HostSpec {
        front: "eth1".into(),
        back: "eth0".into(),
        address: FRONT.into(),
        ..spec()
    });
    let route = net.host.ip("route show 169.254.68.84");
    assert!(route.contains("dev eth0"), "{route}");
    net.restore();
    assert_eq!(net.snapshot(), before);
}

#[test]
fn leaves_what_it_found_in_place() {
    let net = Net::new();
    let back_mac = link_address(&net.host, "eth1");
    net.host.ip("addr add 198.18.0.100/32 dev lo");
    net.host.ip("maddr add 03:bf:c6:12:00:64 dev eth0");
    net.host
        .ip("route add 169.254.68.84 dev eth1 src 198.18.1.11");
    net.host.ip(&format!(
        "neigh add 169.254.68.84 lladdr {back_mac} dev eth1"
    ));
    net.host.write("net/ipv4/conf/all/arp_announce", "2");
    net.host.write("net/ipv4/conf/eth1/arp_ignore", "2");
    let before = net.snapshot();

    net.apply(&spec());
    // The one thing that was missing.
    assert_eq!(net.host.read(ARP_IGNORE), "1");
    assert_eq!(net.host.read(ARP_ANNOUNCE), "0");
    assert_eq!(net.host.read("net/ipv4/conf/eth1/arp_ignore"), "2");
    net.restore();
    assert_eq!(net.snapshot(), before);
}

#[test]
fn leaves_what_others_changed_since() {
    let net = Net::new();
    net.apply(&spec());
    net.host.write(ARP_IGNORE, "8");
    net.host
        .ip("neigh replace 169.254.68.84 lladdr 02:00:00:00:00:09 dev eth1");
    net.host.ip("addr del 198.18.0.100/32 dev lo");
    net.host.ip("maddr del 03:bf:c6:12:00:64 dev eth0");
    net.restore();
    assert_eq!(net.host.read(ARP_IGNORE), "8");
    let neighbour = net.host.neighbour(SELF);
    assert!(neighbour.contains("02:00:00:00:00:09"), "{neighbour}");
}

#[test]
fn a_crash_between_note_and_change_does_no_harm() {
    let net = Net::new();
    let before = net.snapshot();
    net.apply(&spec());
    let noted = fs::read(net.state_file()).expect("a state file");
    net.restore();

    // As if the daemon had died right after noting what it was about to do.
    fs::write(net.state_file(), &noted).expect("written");
    net.restore();
    assert_eq!(net.snapshot(), before);

    // Here it is started again before anybody cleans up.
    fs::write(net.state_file(), &noted).expect("written");
    net.apply(&spec());
    net.restore();
    assert_eq!(net.snapshot(), before);
}

#[test]
fn what_cannot_be_undone_stays_noted() {
    let net = Net::new();
    let before = net.snapshot();
    net.apply(&spec());

    let state_file = net.state_file();
    let error = net.host.within(|| {
        let all = capabilities(None).expect("capabilities");
        let mut fewer = all;
        fewer.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, fewer).expect("fewer capabilities");
        block_on(Host::restore(&state_file))
    });
    let error = error.expect_err("no right to").to_string();
    let text = "cannot undo address 198.18.0.100 on lo: Operation not permitted";
    assert!(error.contains(text), "{error}");
    assert!(error.contains("cannot undo membership"), "{error}");
    assert!(net.state_file().exists());

    net.restore();
    assert_eq!(net.snapshot(), before);
}

#[test]
fn an_interface_that_is_gone_is_no_obstacle() {
    let net = Net::new();
    net.apply(&spec());
    net.host.ip("link del eth0");
    net.restore();
    let lo = net.host.ip("addr show dev lo");
    assert!(!lo.contains(&VIP.to_string()), "{lo}");
    assert_eq!(net.host.read("net/ipv4/conf/eth1/arp_ignore"), "0");
    assert!(!net.state_file().exists());
}

#[test]
fn an_interface_that_was_renamed_is_restored() {
    let net = Net::new();
    net.apply(&spec());
    net.host.ip("link set eth0 down");
    net.host.ip("link set eth0 name wan.0");
    net.restore();
    assert_eq!(net.host.read("net/ipv4/conf/wan.0/arp_ignore"), "0");
    let groups = net.host.ip("maddr show dev wan.0");
    assert!(!groups.contains("03:bf"), "{groups}");
}

#[test]
fn applying_again_puts_back_what_an_interface_lost() {
    let net = Net::new();
    net.apply(&spec());
    let complete = net.snapshot();
    net.host.ip("link set eth1 down");
    net.host.ip("link set eth1 up");
    net.wait_until_up();
    assert_eq!(net.host.ip("route show 169.254.68.84"), "");
    net.apply(&spec());
    assert_eq!(net.snapshot(), complete);
}

#[test]
fn says_what_is_wrong_with_the_host() {
    let net = Net::new();
    net.host.ip("link add br0 type bridge");
    let before = net.snapshot();
    let with = |change: fn(&mut HostSpec)| {
        let mut spec = spec();
        change(&mut spec);
        let error = net.try_apply(&spec).expect_err("a wrong host");
        error.to_string()
    };

    assert_eq!(
        with(|spec| spec.front = "eth9".into()),
        "there is no interface eth9 (front); this host has lo, eth0, eth1, br0: correct `front` in \
         [node]"
    );
    assert_eq!(
        with(|spec| spec.back = "lo".into()),
        "interface lo (back) is not an Ethernet interface; this host has eth0, eth1, br0: correct \
         `back` in [node]"
    );
    assert_eq!(
        with(|spec| spec.front = "br0".into()),
        "interface br0 (front) is down: run `ip link set dev br0 up`"
    );
    assert_eq!(
        with(|spec| spec.address = FRONT.into()),
        "address 198.18.0.11 is not on eth1 (back) but on eth0: correct `address` or `back` in \
         [node]"
    );
    assert_eq!(
        with(|spec| spec.address = CLIENT.into()),
        "address 198.18.0.1 is not on eth1 (back), which has 198.18.1.11: correct `address` in \
         [node], or run `ip address add 198.18.0.1/PREFIX dev eth1`"
    );
    assert_eq!(
        with(|spec| spec.vips.push(FRONT.into())),
        "VIP 198.18.0.11 is on eth0, so this node would answer ARP for it with its own link \
         address: run `ip address del 198.18.0.11/24 dev eth0` (DTS puts it on lo)"
    );
    assert_eq!(
        with(|spec| spec.vips.push(Ipv4Addr::new(224, 0, 0, 1).into())),
        "address 224.0.0.1 cannot be a VIP: it is not a host's address"
    );
    assert_eq!(
        with(|spec| spec.self_address = BACK.into()),
        "self address 198.18.1.11 is an address of this host, of a whole network or of a group: \
         remove it, or set another `self_address` in [node], one that no host has"
    );
    assert_eq!(net.snapshot(), before);
    assert!(!net.state_file().exists());
}

#[test]
fn refuses_to_replace_what_is_not_its_own() {
    let net = Net::new();
    net.host.ip("route add 169.254.68.84 dev eth0");
    let error = net.try_apply(&spec()).expect_err("a route").to_string();
    let text = "there is a route to the self address 169.254.68.84 by eth0 that is not DTS's: ";
    assert!(error.starts_with(text), "{error}");
    net.host.ip("route del 169.254.68.84 dev eth0");

    net.host
        .ip("neigh add 169.254.68.84 lladdr 02:00:00:00:00:09 dev eth1");
    let error = net.try_apply(&spec()).expect_err("an entry").to_string();
    let text = "there is a permanent neighbour entry for the self address 169.254.68.84 with \
                02:00:00:00:00:09 on eth1: ";
    assert!(error.starts_with(text), "{error}");
    net.host.ip("neigh del 169.254.68.84 dev eth1");

    // An unusable route to all of it is no obstacle: ours is more specific.
    net.host.ip("route add unreachable 169.254.0.0/16");
    net.apply(&spec());
}

#[test]
fn refuses_an_interface_that_hands_its_packets_on() {
    let net = Net::new();
    net.host.ip("link add br0 type bridge");
    net.host.ip("link set eth0 master br0");
    let error = net.try_apply(&spec()).expect_err("a bridge's port");
    assert_eq!(
        error.to_string(),
        "interface eth0 (front) is part of br0, which takes its packets: name another one, or \
         release it with `ip link set dev eth0 nomaster`"
    );
}

#[test]
fn follows_a_back_with_a_new_link_address() {
    let net = Net::new();
    let before = net.host.ip("-j neigh show nud all");
    net.apply(&spec());
    net.host.ip("link set eth1 address 02:00:00:00:00:77");
    net.apply(&spec());
    let neighbour = net.host.neighbour(SELF);
    assert!(neighbour.contains("02:00:00:00:00:77"), "{neighbour}");
    net.restore();
    assert_eq!(net.host.ip("-j neigh show nud all"), before);
}

/// Before there is a filter and after it is gone.
#[test]
fn arp_never_ties_a_vip_to_the_nodes_own_link_address() {
    let net = Net::new();
    net.apply(&spec());
    for key in ["rp_filter", "arp_accept"] {
        // The outside world is as gullible as can be.
        net.outside.write(&format!("net/ipv4/conf/f0/{key}"), "0");
    }
    let own = link_address(&net.host, "eth0");

    for safe in [false, true] {
        let (ignore, announce) = if safe { ("1", "2") } else { ("0", "0") };
        net.host.write(ARP_IGNORE, ignore);
        net.host.write(ARP_ANNOUNCE, announce);

        // A question for the VIP. The kernel answers within a moment or not at all.
        net.outside.ip("neigh flush all");
        send(&net.outside, CLIENT, VIP);
        if safe {
            thread::sleep(Duration::from_millis(300));
            let entry = net.outside.neighbour(VIP);
            assert!(!entry.contains("lladdr"), "{entry}");
        } else {
            let answered = || net.outside.neighbour(VIP).contains(&own);
            wait_until("the answer that arp_ignore prevents", answered);
        }

        // A question of the node's, when it sends from the VIP.
        net.outside.ip("neigh flush all");
        net.host.ip("neigh flush dev eth0");
        send(&net.host, VIP, CLIENT);
        wait_until("the node's question", || {
            net.host.neighbour(CLIENT).contains("lladdr")
        });
        let entry = net.outside.neighbour(VIP);
        assert_eq!(entry.contains(&own), !safe, "{entry}");
    }
}

#[test]
fn the_kernel_accepts_connections_to_the_vip_and_never_chooses_it_as_source() {
    let net = Net::new();
    net.host.write("net/ipv4/conf/all/rp_filter", "1");
    net.apply(&spec());
    let front = link_address(&net.host, "eth0");
    // The filter's part: it resolves the VIP.
    net.outside
        .ip(&format!("neigh add {VIP} lladdr {front} dev f0"));
    let (there, here) = exchange(&net.host, &net.outside, VIP);
    assert_eq!(there.ip(), CLIENT);
    assert_eq!(here.ip(), CLIENT);

    // With no address left that suits the front better.
    net.host.ip("addr del 198.18.0.11/24 dev eth0");
    net.host.ip("route add 198.18.0.0/24 dev eth0");
    assert_eq!(source(&net.host, CLIENT), BACK);
}

/// Without the filter, which turns frames to the self address round, somebody outside has the
/// back's link address and the self address: what leaves and what arrives is the same.
#[test]
fn connections_to_the_self_address_leave_and_return_at_the_back() {
    let net = Net::new();
    net.host.write("net/ipv4/conf/all/rp_filter", "1");
    net.host.write("net/ipv4/conf/eth1/rp_filter", "1");
    net.apply(&spec());
    let back = link_address(&net.host, "eth1");
    net.outside.ip(&format!("link set b0 address {back}"));
    net.outside.ip(&format!("addr add {SELF}/32 dev b0"));
    net.outside.ip(&format!("route add {BACK} dev b0"));
    net.outside
        .ip(&format!("neigh add {BACK} lladdr {back} dev b0"));
    let (there, here) = exchange(&net.outside, &net.host, SELF);
    assert_eq!(there.ip(), BACK);
    assert_eq!(here.ip(), BACK);
}

#[test]
fn mounts_the_bpf_file_system_where_it_is_missing() {
    let in_fresh_mounts = |work: fn()| {
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("root's right");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).expect("root's right");
            // There may be several on top of each other, or none.
            while unmount("/sys/fs/bpf", UnmountFlags::DETACH).is_ok() {}
            work();
        })
        .join()
        .expect("no panic");
    };
    in_fresh_mounts(|| {
        let pin_dir = Path::new("/sys/fs/bpf/dts/not/yet");
        prepare_bpf(pin_dir).expect("mounted");
        fs::create_dir("/sys/fs/bpf/dts-host-test").expect("a BPF file system");
        prepare_bpf(pin_dir).expect("mounted before");
    });
    in_fresh_mounts(|| {
        let mut fewer = capabilities(None).expect("capabilities");
        fewer.effective.remove(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, fewer).expect("fewer capabilities");
        let error = prepare_bpf(Path::new("/sys/fs/bpf/dts")).expect_err("no right to");
        assert_eq!(
            error.to_string(),
            "cannot mount the BPF file system: Operation not permitted (os error 1); run `mount \
             -t bpf bpf /sys/fs/bpf` as root"
        );
    });
    let error = prepare_bpf(Path::new("/tmp/dts")).expect_err("another file system");
    assert!(matches!(error, HostError::NotBpfFs { .. }), "{error}");
}

#[test]
fn says_which_privileges_are_missing() {
    require_privileges().expect("tests of hosts run as root");
    let without = |lost: CapabilitySet| {
        thread::spawn(move || {
            let mut fewer = capabilities(None).expect("capabilities");
            fewer.effective.remove(lost);
            set_capabilities(None, fewer).expect("fewer capabilities");
            require_privileges().expect_err("missing").to_string()
        })
        .join()
        .expect("no panic")
    };
    assert_eq!(
        without(CapabilitySet::NET_ADMIN),
        "CAP_NET_ADMIN missing: run as root (or with CAP_NET_ADMIN and CAP_BPF)"
    );
    assert_eq!(
        without(CapabilitySet::all()),
        "CAP_NET_ADMIN and CAP_BPF missing: run as root (or with CAP_NET_ADMIN and CAP_BPF)"
    );
}

/// The daemon moves such work between threads.
#[test]
fn futures_are_send() {
    fn check(_: impl Send) {}
    check(Host::apply(&spec(), Path::new("")));
    check(Host::restore(Path::new("")));
}
