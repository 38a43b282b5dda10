//! HAProxy and nginx in front of the servers.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dts_lab::{Lab, LabProcess, Network, Place};

use super::{PROXY, ToServers, cores};

const NGINX: &str = include_str!("../../peers/nginx.conf");
const HAPROXY: &str = include_str!("../../peers/haproxy.cfg");
const MACHINE: &str = include_str!("../../peers/proxy.sh");

pub(super) fn haproxy_port(to: ToServers) -> u16 {
    match to {
        ToServers::Reused => 8001,
        ToServers::Fresh => 8002,
    }
}

pub(super) fn nginx_port(to: ToServers) -> u16 {
    match to {
        ToServers::Reused => 8003,
        ToServers::Fresh => 8004,
    }
}

/// What the answers are, for which the proxies' buffers are made: what is best for the one is not for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Small,
    Downloads,
}

impl Answers {
    /// What stands for the marks in the templates.
    fn marks(self) -> [(&'static str, &'static str); 3] {
        match self {
            Answers::Small => [
                ("@BUFFER@", "16384"),
                ("@HEAD_BUFFER@", "4k"),
                ("@BUFFERS@", "8 4k"),
            ],
            Answers::Downloads => [
                ("@BUFFER@", "262144"),
                ("@HEAD_BUFFER@", "64k"),
                ("@BUFFERS@", "16 64k"),
            ],
        }
    }
}

/// Starts both on a machine of their own; they end with the lab.
pub(super) fn start(lab: &Lab, answers: Answers) -> anyhow::Result<(LabProcess, LabProcess)> {
    lab.sh(PROXY, MACHINE)
        .context("preparing the proxies' machine")?;
    let dir = lab.place_dir(PROXY);
    let nodes: Vec<Place> = lab.spec().node_places().collect();

    let config = dir.join("haproxy.cfg");
    fs::write(
        &config,
        fill(
            HAPROXY,
            &dir.to_string_lossy(),
            &nodes,
            answers,
            haproxy_port,
        )?,
    )?;
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-f").arg(&config);
    let haproxy = lab.spawn(PROXY, &command)?;

    let config = dir.join("nginx-proxy.conf");
    fs::write(
        &config,
        fill(NGINX, &dir.to_string_lossy(), &nodes, answers, nginx_port)?,
    )?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&dir).arg("-c").arg(&config);
    command.arg("-e").arg(dir.join("nginx-proxy-error.log"));
    let nginx = lab.spawn(PROXY, &command)?;

    for (process, port) in [
        (&haproxy, haproxy_port as fn(ToServers) -> u16),
        (&nginx, nginx_port),
    ] {
        for to in [ToServers::Reused, ToServers::Fresh] {
            wait_for_listener(lab, port(to), process)?;
        }
    }
    Ok((haproxy, nginx))
}

fn wait_for_listener(lab: &Lab, port: u16, process: &LabProcess) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    let filter = format!("sport = :{port}");
    while lab.ss(PROXY, &["-Htln", &filter])?.is_empty() {
        ensure!(
            process.is_alive() && Instant::now() < until,
            "no proxy listens on port {port}: {}",
            fs::read_to_string(process.log_path()).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A proxy's configuration.
fn fill(
    template: &str,
    dir: &str,
    nodes: &[Place],
    answers: Answers,
    port: impl Fn(ToServers) -> u16,
) -> anyhow::Result<String> {
    let mut addresses = Vec::new();
    for node in nodes {
        let address = node.address(Network::Front).context("a node's address")?;
        addresses.push((node.to_string(), address.to_string()));
    }
    let text = for_each_node(template, &addresses);
    let text = answers
        .marks()
        .into_iter()
        .fold(text, |text, (mark, value)| text.replace(mark, value));
    Ok(text
        .replace("@DIR@", dir)
        .replace("@CORES@", &cores().to_string())
        .replace("@REUSED@", &port(ToServers::Reused).to_string())
        .replace("@FRESH@", &port(ToServers::Fresh).to_string()))
}

/// Repeats each group of lines with a mark of a node's for each node.
fn for_each_node(template: &str, nodes: &[(String, String)]) -> String {
    let marked = |line: &str| {
        !line.trim_start().starts_with('#')
            && (line.contains("@NODE@") || line.contains("@ADDRESS@"))
    };
    let mut text = String::new();
    let mut lines = template.lines().peekable();
    while let Some(line) = lines.next() {
        if !marked(line) {
            text = text + line + "\n";
            continue;
        }
        let mut group = line.to_owned() + "\n";
        while let Some(line) = lines.next_if(|line| marked(line)) {
            group = group + line + "\n";
        }
        for (name, address) in nodes {
            text += &group.replace("@NODE@", name).replace("@ADDRESS@", address);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_lines_are_repeated() {
        let nodes = [("n1", "a"), ("n2", "b")].map(|(n, a)| (n.to_owned(), a.to_owned()));
        let text = for_each_node("# @NODE@\nx\nb @NODE@\n  s @ADDRESS@\n\ny\n", &nodes);
        assert_eq!(text, "# @NODE@\nx\nb n1\n  s a\nb n2\n  s b\n\ny\n");
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for template in [NGINX, HAPROXY] {
            let nodes = [Place::Node(1), Place::Node(2)];
            let text = fill(template, "/dir", &nodes, Answers::Downloads, haproxy_port).unwrap();
            let left = |line: &&str| line.contains('@') && !line.trim_start().starts_with('#');
            assert_eq!(text.lines().find(left), None);
            assert!(text.contains("198.18.0.12:80") && text.contains("8001"));
        }
    }
}
