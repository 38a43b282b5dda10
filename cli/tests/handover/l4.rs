//! Services that the ring alone decides, and what is neither a service's nor anybody's.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dts_lab::{Family, Network, Place};
use dts_node::admin::Client;
use etherparse::{IpNumber, TcpHeader};

use crate::client::{Response, connect, connect_here, get, head};
use crate::cluster::{CLIENT, Cluster, Method, WEB, client_address, node_address, vip, wait_for};
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
        let vip = vip(WEB).ip();
        let service =
            format!("[[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = 80\nmode = \"l4\"\n");
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
        let vip = format!("[{}]", vip(WEB).ip());
        let filter = ["-Htan", "state", "time-wait", "src", &vip];
        let waiting = cluster.ss(Place::Node(3), &filter).unwrap();
        waiting.lines().count() == ports.len()
    });

    for node in cluster.nodes() {
        let path = cluster.daemon_config(node);
        let toml = fs::read_to_string(&path).unwrap();
        let n3 = node_address(3, Network::Back);
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

/// Acceptance: one ping answer, not N; ARP, or a neighbour solicitation, for the VIP answered with the multicast address,
/// never with a node's own.
fn ping_and_arp(method: &'static Method) {
    let cluster = l4_cluster(method, 4);
    let vip = vip(WEB).ip();
    let said = cluster
        .sh(CLIENT, &format!("ping -c3 -i0.2 {vip}"))
        .unwrap();
    assert!(said.contains("3 received, 0% packet loss"), "{said}");
    assert!(!said.contains("DUP!"), "{said}");
    match method.family {
        Family::V4 => arp(&cluster),
        Family::V6 => neighbour_discovery(&cluster),
    }
}

fn arp(cluster: &Cluster) {
    let vip = vip(WEB).ip();
    let capture = cluster.capture(CLIENT, "eth0", "arp").unwrap();
    let file = capture.file().to_owned();
    cluster.sh(CLIENT, "ip neigh flush dev eth0").unwrap();
    get(cluster, None, WEB, "/whoami").unwrap();
    // A node that looks for the client in the VIP's name must not give itself away.
    for node in cluster.nodes() {
        let script = "ip neigh flush dev eth0; ping -c1 -W1 -I 198.18.0.100 198.18.0.201";
        // The answer goes to the VIP, and so perhaps to another node.
        let _ = cluster.sh(Place::Node(node), script);
    }
    capture.stop().unwrap();
    let read = format!("tcpdump -nnxr {} arp 2>/dev/null", file.display());
    let frames = cluster.sh(CLIENT, &read).unwrap();
    let replies = format!("Reply {vip} is-at ");
    let answers: Vec<&str> = frames
        .lines()
        .filter_map(|line| line.split_once(&replies))
        .map(|(_, mac)| mac.split(',').next().unwrap())
        .collect();
    assert_eq!(answers, [MULTICAST; 4], "{frames}");
    assert_no_own_mac(&frames);
    let neighbour = cluster.sh(CLIENT, &format!("ip neigh show {vip}")).unwrap();
    assert!(neighbour.contains(MULTICAST), "{neighbour}");
}

/// The link address of the VIP of IPv6: 03:bf and the address's last four bytes.
const MULTICAST_V6: &str = "03:bf:00:00:01:00";

fn neighbour_discovery(cluster: &Cluster) {
    let (vip, client) = (vip(WEB).ip(), client_address());
    let capture = cluster.capture(CLIENT, "eth0", "icmp6").unwrap();
    let file = capture.file().to_owned();
    cluster.sh(CLIENT, "ip -6 neigh flush dev eth0").unwrap();
    get(cluster, None, WEB, "/whoami").unwrap();
    // A node that looks for the client in the VIP's name must not give itself away.
    for node in cluster.nodes() {
        let script = format!("ip -6 neigh flush dev eth0; ping -c1 -W1 -I {vip} {client}");
        // The answer goes to the VIP, and so perhaps to another node.
        let _ = cluster.sh(Place::Node(node), &script);
    }
    capture.stop().unwrap();
    let read = format!("tcpdump -nnver {} 2>/dev/null", file.display());
    let packets = cluster.sh(CLIENT, &read).unwrap();
    // A packet is a line, and indented lines for its options: the link address is one of them.
    let advertised = format!("neighbor advertisement, length 32, tgt is {vip},");
    let mut lines = packets.lines().peekable();
    let mut answers = Vec::new();
    while let Some(line) = lines.next() {
        if !line.contains(&advertised) {
            continue;
        }
        let option = lines.next_if(|next| next.starts_with(char::is_whitespace));
        let mac = option.and_then(|option| option.rsplit(": ").next());
        answers.push(mac.unwrap_or(line).trim().to_owned());
    }
    assert!(answers.len() >= 4, "{packets}");
    assert!(answers.iter().all(|mac| mac == MULTICAST_V6), "{packets}");
    let neighbour = cluster.sh(CLIENT, &format!("ip neigh show {vip}")).unwrap();
    assert!(neighbour.contains(MULTICAST_V6), "{neighbour}");
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
        let own = node_address(node, Network::Front);
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
        let back = node_address(3 - node, Network::Back);
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
        .capture(CLIENT, "eth0", &format!("src host {}", vip(WEB).ip()))
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
    let datagram = packet::Packet::new(from.ip(), vip(0).ip(), IpNumber::UDP, &[0; 8]);
    packets.push(datagram);
    packets.extend(packet::fragments(from, vip(WEB), syn));
    packet::send(&cluster, CLIENT, &packets);
    for (node, before) in cluster.nodes().zip(before) {
        let after = counted(node);
        let grown = [0, 1, 2].map(|i| after[i] - before[i]);
        assert_eq!(grown, [3, 1, 2], "{reasons:?} at n{node}");
    }
    assert_eq!(capture.stop().unwrap(), [], "nobody answers");
}
