//! A real SMTP server.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use dts_lab::{LabProcess, Place};

use super::{MAIL, cluster};
use crate::client::PATIENCE;
use crate::cluster::{CLIENT, Cluster, Method, TRACES, any_address, client_address, vip, wait_for};

/// Exim, which queues what it is given; its reply to EHLO names its node.
fn start_exim(cluster: &Cluster, node: u8) -> LabProcess {
    let place = Place::Node(node);
    let directory = cluster.place_dir(place).join("exim");
    fs::create_dir_all(directory.join("spool")).unwrap();
    let configuration = directory.join("exim.conf");
    let text = format!(
        "primary_hostname = n{node}.example\nsmtp_banner = mail.example ESMTP\n\
         spool_directory = {0}/spool\nlog_file_path = {0}/%slog\npid_file_path = {0}/pid\n\
         exim_user = root\nexim_group = root\nkeep_environment =\nqueue_only = true\n\
         tls_advertise_hosts =\nhost_lookup =\nrfc1413_query_timeout = 0s\nacl_smtp_rcpt = accept\n",
        directory.display()
    );
    fs::write(&configuration, text).unwrap();
    let mut command = Command::new("exim4");
    command
        .arg("-C")
        .arg(&configuration)
        .args(["-bdf", "-oX", &MAIL.to_string()]);
    let process = cluster.spawn(place, &command).unwrap();
    let own = match any_address() {
        address if address.is_ipv4() => "127.0.0.1:25",
        _ => "[::1]:25",
    };
    let own: SocketAddr = own.parse().unwrap();
    wait_for("exim listens", PATIENCE, || {
        assert!(
            process.is_alive(),
            "{}",
            fs::read_to_string(process.log_path()).unwrap()
        );
        let connect = || TcpStream::connect_timeout(&own, Duration::from_millis(200)).is_ok();
        cluster.within(place, connect).unwrap()
    });
    process
}

/// Acceptance: a real SMTP server, routed by the client's first command. curl sends mail through the VIP; the node that its
/// EHLO belongs to has it, and sees the client's own address.
pub(super) fn mail_goes_where_its_first_command_says(method: &'static Method) {
    let cluster = cluster(method, 3, "hello\n", "");
    let servers: Vec<LabProcess> = cluster
        .nodes()
        .map(|node| start_exim(&cluster, node))
        .collect();
    let mail = cluster.place_dir(CLIENT).join("mail");
    fs::write(
        &mail,
        format!("Subject: test\r\n\r\n{}\r\n", "x".repeat(60_000)),
    )
    .unwrap();
    let host = match vip(MAIL) {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    let mut sent = 0;
    for inspector in cluster.nodes() {
        for target in cluster.nodes() {
            let port = cluster.port_inspected_by(inspector);
            let sender = format!("from{inspector}to{target}@client.example");
            let mut curl = Command::new("curl");
            curl.args(["-sv", "--max-time", "20", "--local-port", &port.to_string()])
                .args([
                    "--mail-from",
                    &sender,
                    "--mail-rcpt",
                    "somebody@mail.example",
                ])
                .arg("--upload-file")
                .arg(&mail)
                .arg(format!("smtp://{host}/n{target}.client"));
            let output = cluster.exec(CLIENT, &curl).unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            assert_eq!(said.matches("220 mail.example ESMTP").count(), 1, "{said}");
            // The server's own words: which it is, and who it talks to.
            let client = client_address();
            let reply = format!("250-n{target}.example Hello n{target}.client [{client}]");
            assert!(said.contains(&reply), "{reply} in {said}");
            sent += 1;
            for node in cluster.nodes() {
                let directory = cluster.place_dir(Place::Node(node)).join("exim");
                let log = fs::read_to_string(directory.join("mainlog")).unwrap();
                let arrived = format!("<= {sender}");
                assert_eq!(log.contains(&arrived), node == target, "n{node}: {log}");
            }
        }
    }
    assert_eq!(cluster.handed_over(), sent);
    drop(servers);
    cluster.wait_until_clean(TRACES);
}
