//! Wires, servers and what is seen of them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use dts_lab::{
    AccessLogEntry, Family, FileSet, Lab, LabGuard, Network, Place, TcpOptions, VIP, VIP_V6, sha256,
};

use crate::support::{CLIENT, N1, N2, spec, tests, wait_for};

tests![
    frames_to_the_vip_reach_every_node,
    unicast_reaches_one_node,
    servers_serve_published_files,
    connections_close_where_keepalive_is_off,
    a_handshake_is_captured,
    counters_count_what_was_sent,
    nodes_announce_their_own_window_scale,
    clients_have_further_addresses,
    the_mtu_is_as_asked,
    ipv6_works_where_it_is_on,
    ipv6_is_captured_on_both_networks_and_survives_an_interface,
    the_ipv6_vip_answers_without_daemons,
    the_vip_answers_without_daemons,
    programs_see_the_whole_machine,
];

/// The VIP's multicast address: 03:bf and the IPv4 address (docs/network.md).
const VIP_MAC: [u8; 6] = {
    let [a, b, c, d] = VIP.octets();
    [0x03, 0xbf, a, b, c, d]
};

fn frames_to_the_vip_reach_every_node() {
    let lab = LabGuard::up(spec(3)).unwrap();
    let mac = VIP_MAC.map(|byte| format!("{byte:02x}")).join(":");
    lab.sh(
        CLIENT,
        &format!("ip neigh replace {VIP} lladdr {mac} dev eth0"),
    )
    .unwrap();
    let captures: Vec<_> = lab
        .spec()
        .node_places()
        .map(|node| lab.capture(node, "eth0", "tcp").unwrap())
        .collect();
    // Nobody answers: what counts is who hears it.
    let connect =
        || TcpStream::connect_timeout(&SocketAddr::from((VIP, 80)), Duration::from_millis(300));
    assert!(lab.within(CLIENT, connect).unwrap().is_err());
    for capture in captures {
        let segments = capture.stop().unwrap();
        let syn = segments.first().expect("the SYN was flooded");
        assert_eq!(
            (syn.destination, syn.destination_mac),
            (SocketAddr::from((VIP, 80)), VIP_MAC)
        );
        assert_eq!(Some(syn.source_mac), CLIENT.mac(Network::Front));
        assert!(syn.flags.syn && !syn.flags.ack);
    }
}

fn unicast_reaches_one_node() {
    let lab = LabGuard::up(spec(2)).unwrap();
    // The first exchange teaches the bridge where n1 is.
    lab.sh(CLIENT, "curl -s http://198.18.0.11/whoami").unwrap();
    let capture = lab.capture(N2, "eth0", "tcp").unwrap();
    lab.sh(CLIENT, "curl -s http://198.18.0.11/whoami").unwrap();
    assert_eq!(capture.stop().unwrap(), []);
}

fn servers_serve_published_files() {
    let lab = LabGuard::up(spec(2)).unwrap();
    let mut files = FileSet::new(7);
    for (number, size) in [1, 1000, 100_000, 5_000_000].into_iter().enumerate() {
        files.add(format!("downloads/{number}.bin"), size).unwrap();
    }
    lab.publish(&[N1, N2], &files).unwrap();
    for (host, node) in [("198.18.0.11", "n1"), ("198.18.0.12", "n2")] {
        for file in files.files() {
            let mut curl = Command::new("curl");
            curl.args(["-s", "-D", "/dev/stderr"])
                .arg(format!("http://{host}/{}", file.path));
            let output = lab.exec(CLIENT, &curl).unwrap();
            assert_eq!(sha256(&output.stdout), file.sha256, "{}", file.path);
            let head = String::from_utf8_lossy(&output.stderr).to_lowercase();
            assert!(head.contains(&format!("x-dts-node: {node}")), "{head}");
        }
    }
    let log = access_log(&lab, N2, 4);
    assert_eq!(log[1].request, "GET /downloads/1.bin");
    assert_eq!((log[1].status, log[1].body_bytes), (200, 1000));
    assert_eq!(log[1].remote.ip(), CLIENT.address(Network::Front).unwrap());
}

/// A server's log with so many entries: it writes them a little later than its answers.
fn access_log(lab: &Lab, place: Place, entries: usize) -> Vec<AccessLogEntry> {
    wait_for(|| lab.access_log(place).unwrap().len() >= entries);
    let log = lab.access_log(place).unwrap();
    assert_eq!(log.len(), entries, "{log:?}");
    log
}

fn connections_close_where_keepalive_is_off() {
    for keepalive in [true, false] {
        let mut spec = spec(1);
        spec.keepalive = keepalive;
        let lab = LabGuard::up(spec).unwrap();
        let url = "http://198.18.0.11/whoami";
        lab.sh(CLIENT, &format!("curl -s {url} {url}")).unwrap();
        let log = access_log(&lab, N1, 2);
        let requests: Vec<u64> = log
            .iter()
            .map(|entry| entry.request_of_connection)
            .collect();
        assert_eq!(requests, if keepalive { [1, 2] } else { [1, 1] });
    }
}

fn a_handshake_is_captured() {
    let lab = LabGuard::up(spec(1)).unwrap();
    let capture = lab.capture(N1, "eth0", "tcp port 80").unwrap();
    lab.sh(CLIENT, "curl -s http://198.18.0.11/whoami").unwrap();
    let segments = capture.stop().unwrap();
    let flags: Vec<String> = segments
        .iter()
        .take(3)
        .map(|segment| segment.flags.to_string())
        .collect();
    assert_eq!(flags, ["S", "S.", "."]);
    let [syn, syn_ack, ack] = &segments[..3] else {
        panic!("three segments")
    };
    assert_eq!(syn_ack.ack, syn.end_seq());
    assert_eq!((ack.seq, ack.ack), (syn.end_seq(), syn_ack.end_seq()));
    for segment in [syn, syn_ack] {
        let TcpOptions {
            mss,
            sack_permitted,
            timestamps,
            window_scale,
            dts,
            ..
        } = &segment.options;
        assert_eq!((*mss, *sack_permitted, dts), (Some(1460), true, &None));
        assert!(timestamps.is_some() && window_scale.is_some());
    }
    assert!(
        segments
            .iter()
            .any(|segment| segment.payload.starts_with(b"GET /whoami HTTP/1.1\r\n"))
    );
    assert!(
        segments
            .iter()
            .any(|segment| segment.payload.ends_with(b"\r\n\r\nn1\n"))
    );
    assert!(segments.windows(2).all(|pair| pair[0].time <= pair[1].time));
}

fn counters_count_what_was_sent() {
    let lab = LabGuard::up(spec(1)).unwrap();
    let mut files = FileSet::new(1);
    files.add("f", 1_000_000).unwrap();
    lab.publish(&[N1], &files).unwrap();
    let before = lab.counters(N1, "eth0").unwrap();
    lab.sh(CLIENT, "curl -s -o /dev/null http://198.18.0.11/f")
        .unwrap();
    let sent = lab.counters(N1, "eth0").unwrap() - before;
    assert!((1_000_000..1_200_000).contains(&sent.tx_bytes), "{sent:?}");
    assert!(sent.rx_bytes < 100_000, "{sent:?}");
    assert!(
        lab.counters(N1, "eth7")
            .unwrap_err()
            .to_string()
            .contains("no interface eth7")
    );
    assert!(lab.ss(N1, &["-Htln"]).unwrap().contains("0.0.0.0:80"));
}

fn nodes_announce_their_own_window_scale() {
    let mut spec = spec(2);
    for (node, most) in spec.nodes.iter_mut().zip([8 << 20, 32 << 20]) {
        node.sysctls = vec![("net.ipv4.tcp_rmem".into(), format!("4096 131072 {most}"))];
    }
    let lab = LabGuard::up(spec).unwrap();
    let scale = |node: Place| {
        let capture = lab.capture(node, "eth0", "tcp port 80").unwrap();
        let address = node.address(Network::Front).unwrap();
        lab.sh(CLIENT, &format!("curl -s http://{address}/whoami"))
            .unwrap();
        let segments = capture.stop().unwrap();
        let syn_ack = segments
            .iter()
            .find(|segment| segment.flags.syn && segment.flags.ack);
        syn_ack
            .and_then(|segment| segment.options.window_scale)
            .unwrap()
    };
    // 32 KiB << scale is the largest buffer.
    assert_eq!(scale(N1), 8);
    assert_eq!(scale(N2), 10);
}

fn clients_have_further_addresses() {
    let mut spec = spec(2);
    spec.clients = 2;
    spec.client_extra_addresses = 3;
    let lab = LabGuard::up(spec).unwrap();
    let fetch = "curl -s --interface 198.18.3.3 http://198.18.0.12/whoami";
    assert_eq!(lab.sh(Place::Client(2), fetch).unwrap(), "n2\n");
    assert_eq!(
        access_log(&lab, N2, 1)[0].remote.ip(),
        Ipv4Addr::new(198, 18, 3, 3)
    );
    // The route to them comes back with the interface.
    lab.set_link(N2, Network::Front, false).unwrap();
    lab.set_link(N2, Network::Front, true).unwrap();
    assert_eq!(
        lab.sh(
            Place::Client(2),
            &format!("{fetch} --retry 5 --retry-all-errors")
        )
        .unwrap(),
        "n2\n"
    );
}

fn the_mtu_is_as_asked() {
    let mut spec = spec(2);
    spec.back_mtu = 9000;
    let lab = LabGuard::up(spec).unwrap();
    let ping = |network: Network, payload: u16| {
        let address = N2.address(network).unwrap();
        lab.sh(N1, &format!("ping -c1 -W1 -M do -s {payload} {address}"))
            .is_ok()
    };
    // 28 bytes of IP and ICMP headers.
    assert!(ping(Network::Back, 9000 - 28) && !ping(Network::Back, 9001 - 28));
    assert!(ping(Network::Front, 1500 - 28) && !ping(Network::Front, 1501 - 28));
}

fn ipv6_works_where_it_is_on() {
    let mut with = spec(1);
    with.ipv6 = true;
    let lab = LabGuard::up(with).unwrap();
    assert_eq!(
        lab.sh(CLIENT, "curl -s 'http://[2001:db8::11]/whoami'")
            .unwrap(),
        "n1\n"
    );
    drop(lab);
    let lab = LabGuard::up(spec(1)).unwrap();
    assert_eq!(lab.sh(N1, "ip -6 -brief addr").unwrap(), "");
}

fn ipv6_is_captured_on_both_networks_and_survives_an_interface() {
    let mut spec = spec(2).with_ipv6(Family::V6);
    spec.client_extra_addresses = 2;
    let lab = LabGuard::up(spec).unwrap();
    // From an address that the node knows by a route only.
    let fetch = "curl -s --interface 2001:db8:0:2::2 'http://[2001:db8::12]/whoami' \
                 --connect-timeout 2 --retry 5 --retry-all-errors";
    assert_eq!(lab.sh(CLIENT, fetch).unwrap(), "n2\n");
    for network in Network::ALL {
        lab.set_link(N2, network, false).unwrap();
        lab.set_link(N2, network, true).unwrap();
    }
    assert_eq!(lab.sh(CLIENT, fetch).unwrap(), "n2\n");

    let to = N2.address_v6(Network::Back).unwrap();
    let capture = lab.capture(N1, "eth1", "tcp port 80").unwrap();
    let fetch = "--connect-timeout 2 --retry 5 --retry-all-errors";
    let fetch = format!("curl -s 'http://[{to}]/whoami' {fetch}");
    let whoami = lab.sh(N1, &fetch).unwrap();
    assert_eq!(whoami, "n2\n");
    let segments = capture.stop().unwrap();
    let syn = segments
        .iter()
        .find(|s| s.flags.syn && !s.flags.ack)
        .unwrap();
    assert_eq!(syn.source.ip(), N1.address_v6(Network::Back).unwrap());
    assert_eq!(syn.destination, SocketAddr::new(to.into(), 80));
    assert!(
        segments
            .iter()
            .any(|s| s.payload.starts_with(b"HTTP/1.1 200"))
    );
}

fn the_ipv6_vip_answers_without_daemons() {
    let mut spec = spec(2).with_ipv6(Family::V4);
    spec.cluster.vip_on_lo = true;
    let lab = LabGuard::up(spec).unwrap();
    let whoami = lab.sh(CLIENT, &format!("curl -s 'http://[{VIP_V6}]/whoami'"));
    assert_eq!(whoami.unwrap(), "n1\n");
    let lo = lab.sh(N2, "ip -6 addr show dev lo").unwrap();
    assert!(lo.contains("2001:db8::100/128"), "{lo}");
}

fn the_vip_answers_without_daemons() {
    let mut spec = spec(2);
    spec.cluster.vip_on_lo = true;
    let lab = LabGuard::up(spec).unwrap();
    assert_eq!(
        lab.sh(CLIENT, &format!("curl -s http://{VIP}/whoami"))
            .unwrap(),
        "n1\n"
    );
    assert!(
        lab.sh(N2, "ip -4 addr show dev lo")
            .unwrap()
            .contains("198.18.0.100/32")
    );
}

fn programs_see_the_whole_machine() {
    let lab = LabGuard::up(spec(1)).unwrap();
    // `ip netns exec` would have another /sys here, without the BPF file system.
    let mounts = lab.sh(N1, "readlink /proc/self/ns/mnt").unwrap();
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_eq!(mounts.trim(), own.to_str().unwrap());
    // And sockets made inside work from outside.
    let listener = lab
        .within(N1, || TcpListener::bind("198.18.0.11:9"))
        .unwrap()
        .unwrap();
    let connect = || TcpStream::connect("198.18.0.11:9");
    let stream = lab.within(CLIENT, connect).unwrap().unwrap();
    let (_, from) = listener.accept().unwrap();
    assert_eq!(stream.local_addr().unwrap(), from);
}
