//! Services that the ring alone decides, and what is neither a service's nor anybody's.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dts_lab::{Network, Place, VIP};
use dts_node::admin::Client;
use etherparse::TcpHeader;

use crate::client::{Response, connect, connect_here, get, head};
use crate::cluster::{CLIENT, Cluster, Method, WEB, client_address, vip, wait_for};
use crate::packet;

crate::cases![
    the_owner_answers,
    time_wait_after_a_change_of_the_ring,
    ping_and_arp,
    other_traffic,
    packets_for_nobody,
];

/// The VIP's link address: 03:bf and the address.
const MULTICAST: &str = "03:bf:c6:12:00:64";

fn l4_cluster(method: &Method, nodes: u8) -> Cluster {
    Cluster::with(method, nodes, |spec| {
        let service =
            format!("[[service]]\nname = \"web\"\nvip = \"{VIP}\"\nport = 80\nmode = \"l4\"\n");
        spec.cluster.services_toml = Some(service);
    })
}

/// Acceptance: SYN ownership by ring; who is not the owner never answers.
fn the_owner_answers(method: &'static Method) {
    let cluster = l4_cluster(method, 4);
    let capture = cluster.capture(CLIENT, "eth0", "tcp port 80").unwrap();
    let mut served = BTreeMap::new();
    for port in 11_000..11_060 {
        let response = get(&cluster, Some(port), WEB, "/whoami").unwrap();
        let owner = cluster.owner(1, SocketAddr::new(client_address(), port));
        assert_eq!(response.node, Some(format!("n{owner}")));
        served.insert(port, owner);
    }
    assert_eq!(
        served
            .values()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        4
    );
    let mut answers = 0;
    for segment in capture.stop().unwrap() {
        if segment.source == vip(WEB) {
            let owner = Place::Node(served[&segment.destination.port()]);
            let mac = owner.mac(Network::Front).unwrap();
            assert_eq!(segment.source_mac, mac, "{segment:?}");
            answers += usize::from(segment.flags.syn);
        }
    }
    assert!(answers >= 60);
}

/// Acceptance: after a change of the ring a connection stays on its node, and a TIME_WAIT socket on the
/// old owner neither answers nor hinders the new owner's connection.
fn time_wait_after_a_change_of_the_ring(method: &'static Method) {
    let cluster = l4_cluster(method, 3);
    let stays = cluster.port_inspected_by(3);
    let mut persistent = connect(&cluster, Some(stays), WEB).unwrap();
    let request = head("GET", "/whoami", None).replace("Connection: close\r\n", "");
    let mut ask = || {
        persistent.write_all(request.as_bytes()).unwrap();
        Response::read(&persistent).unwrap().node
    };
    assert_eq!(ask().as_deref(), Some("n3"));
    let ports: Vec<u16> = (0..10).map(|_| cluster.port_inspected_by(3)).collect();
    for port in &ports {
        let response = get(&cluster, Some(*port), WEB, "/whoami").unwrap();
        assert_eq!(response.node.as_deref(), Some("n3"));
    }
    wait_for("they wait in TIME_WAIT", Duration::from_secs(5), || {
        let filter = ["-Htan", "state", "time-wait", "src", "198.18.0.100"];
        let waiting = cluster.ss(Place::Node(3), &filter).unwrap();
        waiting.lines().count() == ports.len()
    });

    for node in cluster.nodes() {
        let path = cluster.daemon_config(node);
        let toml = fs::read_to_string(&path).unwrap();
        let n3 = Place::Node(3).address(Network::Back).unwrap();
        let member = format!("{{ id = \"n3\", address = \"{n3}\"");
        let changed = toml.replace(&member, &format!("{member}, inspect = false"));
        assert_ne!(changed, toml);
        fs::write(&path, changed).unwrap();
        let daemon = Client::connect(&cluster.daemon_socket(node)).unwrap();
        daemon.reload().unwrap();
    }
    let capture = cluster.capture(CLIENT, "eth0", "tcp port 80").unwrap();
    for port in &ports {
        let owner = cluster.owner(1, SocketAddr::new(client_address(), *port));
        assert_ne!(owner, 3);
        let response = get(&cluster, Some(*port), WEB, "/whoami").unwrap();
        assert_eq!(response.node, Some(format!("n{owner}")));
    }
    let old_owner = Place::Node(3).mac(Network::Front).unwrap();
    let segments = capture.stop().unwrap();
    let mut answers = segments
        .iter()
        .filter(|segment| segment.source_mac == old_owner);
    assert_eq!(answers.next(), None, "the old owner is silent");
    let killed = cluster.stats(3).actions["time_wait_killed"];
    assert_eq!(killed, 10, "sockets in TIME_WAIT made way");
    assert_eq!(ask().as_deref(), Some("n3"), "the connection stays");
}

/// Acceptance: one ping answer, not N; ARP for the VIP answered with the multicast address, never with a
/// node's own.
fn ping_and_arp(method: &'static Method) {
    let cluster = l4_cluster(method, 4);
    let said = cluster
        .sh(CLIENT, &format!("ping -c3 -i0.2 {VIP}"))
        .unwrap();
    assert!(said.contains("3 received, 0% packet loss"), "{said}");
    assert!(!said.contains("DUP!"), "{said}");

    let capture = cluster.capture(CLIENT, "eth0", "arp").unwrap();
    let file = capture.file().to_owned();
    cluster.sh(CLIENT, "ip neigh flush dev eth0").unwrap();
    get(&cluster, None, WEB, "/whoami").unwrap();
    // A node that looks for the client in the VIP's name must not give itself away.
    for node in cluster.nodes() {
        let script = "ip neigh flush dev eth0; ping -c1 -W1 -I 198.18.0.100 198.18.0.201";
        // The answer goes to the VIP, and so perhaps to another node.
        let _ = cluster.sh(Place::Node(node), script);
    }
    capture.stop().unwrap();
    let read = format!("tcpdump -nnxr {} arp 2>/dev/null", file.display());
    let frames = cluster.sh(CLIENT, &read).unwrap();
    let replies = format!("Reply {VIP} is-at ");
    let answers: Vec<&str> = frames
        .lines()
        .filter_map(|line| line.split_once(&replies))
        .map(|(_, mac)| mac.split(',').next().unwrap())
        .collect();
    assert_eq!(answers, [MULTICAST; 4], "{frames}");
    assert_no_own_mac(&frames);
    let neighbour = cluster.sh(CLIENT, &format!("ip neigh show {VIP}")).unwrap();
    assert!(neighbour.contains(MULTICAST), "{neighbour}");
}

/// No ARP packet names the VIP as sender with another link address than the multicast one.
fn assert_no_own_mac(frames: &str) {
    let mut hex = String::new();
    let mut packets = Vec::new();
    for line in frames.lines() {
        match line.trim_start().strip_prefix("0x") {
            Some(bytes) => hex += &bytes.split_once(':').unwrap().1.replace([' '], ""),
            None => packets.push(std::mem::take(&mut hex)),
        }
    }
    packets.push(hex);
    // RFC 826: the sender's link address is at byte 8, its protocol address at 14.
    let senders = packets
        .iter()
        .filter_map(|p| Some((p.get(16..28)?, p.get(28..36)?)));
    let of_vip: Vec<_> = senders.filter(|(_, ip)| *ip == "c6120064").collect();
    assert!(of_vip.len() >= 4);
    for (mac, _) in of_vip {
        assert_eq!(mac, MULTICAST.replace(':', ""));
    }
}

/// Acceptance: other traffic untouched.
fn other_traffic(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    for node in cluster.nodes() {
        let own = Place::Node(node).address(Network::Front).unwrap();
        let said = cluster
            .sh(CLIENT, &format!("ping -c3 -i0.2 {own}"))
            .unwrap();
        assert!(said.contains("3 received, 0% packet loss"), "{said}");
        // A server of the node's own address, as sshd would be; and the other way round.
        let to = SocketAddr::from((own, WEB));
        let mut stream = cluster
            .within(CLIENT, || connect_here(None, to))
            .unwrap()
            .unwrap();
        stream
            .write_all(head("GET", "/whoami", None).as_bytes())
            .unwrap();
        let response = Response::read(&stream).unwrap();
        assert_eq!(response.node, Some(format!("n{node}")));
        let back = Place::Node(3 - node).address(Network::Back).unwrap();
        let between = || TcpStream::connect_timeout(&(back, WEB).into(), Duration::from_secs(2));
        cluster.within(Place::Node(node), between).unwrap().unwrap();
    }
}

/// Acceptance: packets to the VIP's other ports, to the inspector's port, and fragments are dropped and
/// counted; nobody answers them.
fn packets_for_nobody(method: &'static Method) {
    let cluster = Cluster::up(method, 3);
    let reasons = ["no_service", "inspector_port", "fragment"];
    let counted = |node| reasons.map(|reason| cluster.drops(node, reason));
    let before: Vec<_> = cluster.nodes().map(counted).collect();
    let capture = cluster
        .capture(CLIENT, "eth0", &format!("src host {VIP}"))
        .unwrap();
    let from = SocketAddr::new(client_address(), 12_345);
    let syn = TcpHeader {
        syn: true,
        window_size: 1000,
        ..TcpHeader::default()
    };
    let mut packets: Vec<_> = [9999, 9999, 8081]
        .map(|port| packet::segment(from, vip(port), syn.clone()))
        .into();
    let udp = || (packet::ip(from.ip(), vip(0).ip(), 8), vec![0; 8]);
    let mut datagram = udp();
    datagram.0.protocol = etherparse::IpNumber::UDP;
    packets.push(datagram);
    let (mut ip, tcp) = packet::segment(from, vip(WEB), syn);
    ip.more_fragments = true;
    packets.push((ip.clone(), tcp));
    ip.more_fragments = false;
    ip.fragment_offset = 3.try_into().unwrap();
    packets.push((ip, vec![0; 20]));
    packet::send(&cluster, CLIENT, &packets);
    for (node, before) in cluster.nodes().zip(before) {
        let after = counted(node);
        let grown = [0, 1, 2].map(|i| after[i] - before[i]);
        assert_eq!(grown, [3, 1, 2], "{reasons:?} at n{node}");
    }
    assert_eq!(capture.stop().unwrap(), [], "nobody answers");
}
