//! The requests: files with known checksums, fetched by curl, a connection each.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use dts_lab::{FileSet, Lab, Place, VIP, sha256};

const CLIENT: Place = Place::Client(1);

/// The sizes of each node's files, in bytes: one byte, one segment, several, many.
const SIZES: [u64; 3] = [1, 1000, 300_000];

/// A request to be made.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The path, `/n1/1000.bin`.
    pub(super) path: String,
    /// Whose it is by the lab's rules.
    pub(super) rule: Rule,
    /// The body's SHA-256; `None` for `/whoami`, whose body is the name of who answers.
    pub(super) sha256: Option<String>,
}

/// What the lab's rules say about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// It belongs to this node.
    Node(Place),
    /// It belongs to a node, always the same one, that its URI decides.
    Uri,
    /// It stays with the node that inspects it.
    Local,
}

/// A request that was made, as the client saw it.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    pub(super) request: Request,
    /// The client's port.
    pub(super) port: u16,
    pub(super) status: u16,
    /// The response's head, as curl received it.
    pub(super) head: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// Publishes the files, and says what to fetch in which order.
pub(super) fn plan(lab: &Lab) -> anyhow::Result<Vec<Request>> {
    let nodes: Vec<Place> = lab.spec().node_places().collect();
    let mut requests = Vec::new();
    for size in SIZES {
        for node in &nodes {
            let path = format!("{node}/{size}.bin");
            requests.push(publish(lab, &[*node], &path, size, Rule::Node(*node))?);
        }
    }
    let mut shared = Vec::new();
    for (name, size) in [("a.iso", 2_000_000), ("b.iso", 50_000)] {
        let path = format!("downloads/{name}");
        shared.push(publish(lab, &nodes, &path, size, Rule::Uri)?);
    }
    let whoami = Request {
        path: "/whoami".to_owned(),
        rule: Rule::Local,
        sha256: None,
    };
    // Twice each: the second has to be answered by the node that answered the first.
    let again = shared.clone();
    requests.extend(shared.into_iter().chain(again));
    requests.extend(std::iter::repeat_n(whoami, 4));
    Ok(requests)
}

/// Puts a file where its nodes serve it.
fn publish(
    lab: &Lab,
    nodes: &[Place],
    path: &str,
    size: u64,
    rule: Rule,
) -> anyhow::Result<Request> {
    let mut file = FileSet::new(1);
    file.add(path, size)?;
    lab.publish(nodes, &file)?;
    Ok(Request {
        path: format!("/{path}"),
        rule,
        sha256: Some(file.files()[0].sha256.clone()),
    })
}

/// Makes the requests, one after the other.
pub(super) fn fetch_all(lab: &Lab, requests: &[Request]) -> anyhow::Result<Vec<Fetch>> {
    requests
        .iter()
        .map(|request| fetch(lab, request).with_context(|| format!("GET {}", request.path)))
        .collect()
}

fn fetch(lab: &Lab, request: &Request) -> anyhow::Result<Fetch> {
    let directory = lab.place_dir(CLIENT);
    let (head, body) = (directory.join("head"), directory.join("body"));
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "10"])
        .args(["--write-out", "%{local_port} %{http_code}"])
        .arg("--dump-header")
        .arg(&head)
        .arg("--output")
        .arg(&body)
        .arg(format!("http://{VIP}{}", request.path));
    let output = lab.exec(CLIENT, &curl)?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("curl failed ({}): {}", output.status, why.trim());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let (port, status) = said
        .split_once(' ')
        .and_then(|(port, status)| Some((port.parse().ok()?, status.parse().ok()?)))
        .with_context(|| format!("curl said `{said}`, which is not a port and a status"))?;
    Ok(Fetch {
        request: request.clone(),
        port,
        status,
        head: read(&head)?,
        body: read(&body)?,
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

impl Fetch {
    /// Whether the body is what was published. That of `/whoami` is the name of `node`.
    pub(super) fn checksum_is_right(&self, node: Option<Place>) -> bool {
        match &self.request.sha256 {
            Some(expected) => sha256(&self.body) == *expected,
            None => node.is_some_and(|node| self.body == format!("{node}\n").as_bytes()),
        }
    }

    /// The node that the response's `X-DTS-Node` names.
    pub(super) fn named_in_header(&self) -> Option<Place> {
        let head = String::from_utf8_lossy(&self.head);
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("x-dts-node"))
            .and_then(|(_, value)| value.trim().parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(head: &str, body: &str, sha256: Option<String>) -> Fetch {
        Fetch {
            request: Request {
                path: "/x".to_owned(),
                rule: Rule::Local,
                sha256,
            },
            port: 1,
            status: 200,
            head: head.as_bytes().to_vec(),
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn header_names_the_node() {
        let named = |head| fetch(head, "", None).named_in_header();
        let head = "HTTP/1.1 200 OK\r\nServer: nginx\r\nx-dts-node: n3\r\n\r\n";
        assert_eq!(named(head), Some(Place::Node(3)));
        assert_eq!(named("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(named("HTTP/1.1 200 OK\r\nX-DTS-Node: seven\r\n\r\n"), None);
    }

    #[test]
    fn bodies_are_compared() {
        let right = fetch("", "abc", Some(sha256(b"abc")));
        assert!(right.checksum_is_right(None));
        assert!(!fetch("", "abd", Some(sha256(b"abc"))).checksum_is_right(None));
        let whoami = fetch("", "n2\n", None);
        assert!(whoami.checksum_is_right(Some(Place::Node(2))));
        assert!(!whoami.checksum_is_right(Some(Place::Node(1))));
        assert!(!whoami.checksum_is_right(None));
    }
}
