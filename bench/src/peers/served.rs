//! What the servers say that they have served: the access logs.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::PathBuf;

use anyhow::Context as _;
use dts_lab::{Lab, Network, Place};

use super::PROXY;

/// What one or more servers have served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    /// Requests that were answered in full.
    pub(crate) requests: u64,
    /// Those of them whose path belongs to the node that answered, or to any.
    pub(crate) own: u64,
    /// Connections that had a request.
    pub(crate) connections: u64,
    /// Requests that came from the proxies.
    pub(crate) proxied: u64,
    /// Nodes that have served something.
    pub(crate) nodes: u64,
    /// Answers that were not what is asked for: another status, another length.
    pub(crate) wrong: u64,
}

fn log(lab: &Lab, node: Place) -> PathBuf {
    lab.place_dir(node).join("access.log")
}

/// Empties the logs, which would fill the memory otherwise.
pub(super) fn forget(lab: &Lab) -> anyhow::Result<()> {
    for node in lab.spec().node_places() {
        let path = log(lab, node);
        // The server appends, so it goes on at the new end.
        match File::options().write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            opened => opened.and_then(|file| file.set_len(0)),
        }
        .with_context(|| format!("cannot empty {}", path.display()))?;
    }
    Ok(())
}

/// What all nodes have served since the logs were emptied, of files of this size.
pub(super) fn served(lab: &Lab, size: u64) -> anyhow::Result<Served> {
    let proxy = PROXY
        .address(Network::Front)
        .context("the proxies' address")?
        .to_string();
    let mut sum = Served::default();
    for node in lab.spec().node_places() {
        let path = log(lab, node);
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut reader = BufReader::new(file);
        let before = sum.requests;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            sum.count(line.trim_end(), &node.to_string(), &proxy, size);
            line.clear();
        }
        sum.nodes += u64::from(sum.requests > before);
    }
    Ok(sum)
}

impl Served {
    /// Counts a line of the lab's log: address, port, status, bytes, request of its connection, request. What is no whole
    /// line, because it is still being written, isn't counted.
    fn count(&mut self, line: &str, node: &str, proxy: &str, size: u64) {
        let fields: Vec<&str> = line.splitn(6, '\t').collect();
        let [remote, _, status, bytes, of_connection, request] = fields[..] else {
            return;
        };
        // Its client has gone before the end: the load's last moment.
        if status == "499" || (status == "200" && bytes.parse().is_ok_and(|b: u64| b < size)) {
            return;
        }
        if status != "200" || bytes.parse() != Ok(size) {
            self.wrong += 1;
            return;
        }
        self.requests += 1;
        let folder = request
            .strip_prefix("GET /")
            .and_then(|path| path.split('/').next());
        self.own += u64::from(folder == Some(node) || folder == Some("any"));
        self.connections += u64::from(of_connection == "1");
        self.proxied += u64::from(remote == proxy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let mut served = Served::default();
        for line in [
            "198.18.2.1\t4000\t200\t1024\t1\tGET /n1/1k",
            "198.18.0.202\t4000\t200\t1024\t2\tGET /n2/1k",
            "198.18.2.1\t4000\t200\t1024\t7\tGET /any/1k",
            "198.18.2.1\t4000\t200\t100\t1\tGET /n1/1k",
            "198.18.2.1\t4000\t404\t153\t1\tGET /n1/x",
            "198.18.2",
        ] {
            served.count(line, "n1", "198.18.0.202", 1024);
        }
        let expected = Served {
            requests: 3,
            own: 2,
            connections: 1,
            proxied: 1,
            nodes: 0,
            wrong: 1,
        };
        assert_eq!(served, expected);
    }
}
