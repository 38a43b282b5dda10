//! Who did what, by the wires, the servers' logs and the client; and where these disagree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::{AccessLogEntry, Lab, Network, Place};
use dts_node::admin::StatsView;

use super::traffic::{Fetch, Rule};
use super::wire::{Seen, Wire};

/// Something that is not as it must be.
pub(super) type Finding = String;

/// The servers' logs, by node.
pub(super) type Logs = BTreeMap<Place, Vec<AccessLogEntry>>;

/// How long servers may take to write their logs.
const LOG_TIME: Duration = Duration::from_secs(2);

/// What happened to a request.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// The request's number, from 1.
    pub(super) number: usize,
    pub(super) path: String,
    pub(super) rule: Rule,
    /// The client's end.
    pub(super) client: SocketAddr,
    /// Who sent the SYN-ACK.
    pub(super) inspected: BTreeSet<Place>,
    /// Whose server has logged the request.
    pub(super) logged: BTreeSet<Place>,
    /// Whom the response's header names.
    pub(super) named: Option<Place>,
    /// Who sent payload to the client.
    pub(super) answered: BTreeSet<Place>,
    pub(super) status: u16,
    /// Length of the body.
    pub(super) body_bytes: u64,
    /// Payload bytes that reached the client, from its node.
    pub(super) wire_bytes: u64,
    pub(super) checksum_is_right: bool,
    /// Differences between what was seen in two places.
    differences: Vec<String>,
}

/// The servers' logs, as soon as they have all the requests.
pub(super) fn logs(lab: &Lab, fetches: &[Fetch]) -> anyhow::Result<Logs> {
    let deadline = Instant::now() + LOG_TIME;
    loop {
        let mut logs = Logs::new();
        for node in lab.spec().node_places() {
            logs.insert(node, lab.access_log(node)?);
        }
        let logged: usize = logs.values().map(Vec::len).sum();
        if logged >= fetches.len() || Instant::now() > deadline {
            return Ok(logs);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

impl Outcome {
    /// Puts together what is known of a request.
    pub(super) fn of(number: usize, fetch: &Fetch, wire: &Wire, logs: &Logs) -> Self {
        let address = Place::Client(1).address(Network::Front);
        let address = address.expect("a client is on the front network");
        let client = SocketAddr::new(address.into(), fetch.port);
        Self::from_seen(number, fetch, client, &wire.seen(client), logs)
    }

    fn from_seen(
        number: usize,
        fetch: &Fetch,
        client: SocketAddr,
        seen: &Seen,
        logs: &Logs,
    ) -> Self {
        let path = fetch.request.path.clone();
        let line = format!("GET {path}");
        let logged = logs
            .iter()
            .filter(|(_, log)| log.iter().any(|e| e.remote == client && e.request == line))
            .map(|(node, _)| *node)
            .collect();
        let named = fetch.named_in_header();
        Self {
            number,
            path,
            rule: fetch.request.rule,
            client,
            inspected: seen.accepted_by.clone(),
            logged,
            named,
            answered: seen.received.keys().copied().collect(),
            status: fetch.status,
            body_bytes: fetch.body.len() as u64,
            wire_bytes: seen.received.values().sum(),
            checksum_is_right: fetch.checksum_is_right(named),
            differences: differences(fetch, seen),
        }
    }

    /// The node that inspected the request, if it was one.
    pub(super) fn inspecting(&self) -> Option<Place> {
        the_one(&self.inspected)
    }

    /// The node that processed the request, if all agree on it.
    pub(super) fn processing(&self) -> Option<Place> {
        let node = the_one(&self.logged)?;
        (self.named == Some(node)).then_some(node)
    }

    /// The node that sent the answer, if it was one.
    pub(super) fn sender(&self) -> Option<Place> {
        the_one(&self.answered)
    }

    /// What is not as it must be.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut found = self.differences.clone();
        let mut must = |holds: bool, otherwise: String| {
            if !holds {
                found.push(otherwise);
            }
        };
        let list = |nodes: &BTreeSet<Place>| names(nodes);
        must(
            self.inspected.len() == 1,
            format!("SYN answered by {}, not by one node", list(&self.inspected)),
        );
        must(
            self.logged.len() == 1,
            format!("logged by {}, not by one node", list(&self.logged)),
        );
        must(
            self.named.is_some() && the_one(&self.logged) == self.named,
            format!(
                "logged by {}, but the response names {}",
                list(&self.logged),
                name(self.named)
            ),
        );
        must(
            self.sender().is_some() && self.sender() == the_one(&self.logged),
            format!(
                "processed by {}, but the answer's bytes came from {}",
                list(&self.logged),
                list(&self.answered)
            ),
        );
        must(
            match self.rule {
                Rule::Node(node) => self.processing() == Some(node),
                Rule::Local => self.processing() == self.inspecting(),
                Rule::Uri => true,
            },
            format!("processed by {}, against the rules", list(&self.logged)),
        );
        must(self.status == 200, format!("status {}", self.status));
        must(self.checksum_is_right, "wrong checksum".to_owned());
        let prefix = format!("request {} ({}): ", self.number, self.path);
        found.into_iter().map(|f| prefix.clone() + &f).collect()
    }
}

/// Where two places saw different things.
fn differences(fetch: &Fetch, seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    if seen.accepted_by != seen.accepted_for_client {
        found.push(format!(
            "the SYN-ACK left {}, but the client's came from {}",
            names(&seen.accepted_by),
            names(&seen.accepted_for_client)
        ));
    }
    if seen.sent != seen.received {
        found.push(format!(
            "nodes sent {:?} bytes to the client, which received {:?}",
            seen.sent, seen.received
        ));
    }
    let response = [fetch.head.as_slice(), &fetch.body].concat();
    if seen.stream != response {
        found.push(format!(
            "{} bytes reached the client's interface, curl has {}, or others",
            seen.stream.len(),
            response.len()
        ));
    }
    found
}

/// What is wrong with all the requests together.
pub(super) fn overall(outcomes: &[Outcome], stats: &[StatsView]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut homes: BTreeMap<&str, Option<Place>> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.rule == Rule::Uri) {
        let home = *homes.entry(&outcome.path).or_insert(outcome.processing());
        if home != outcome.processing() {
            found.push(format!(
                "{} was processed by {} and by {}",
                outcome.path,
                name(home),
                name(outcome.processing())
            ));
        }
    }
    let done: u64 = stats
        .iter()
        .map(|view| inspector(view, "handovers.done"))
        .sum();
    if done != outcomes.len() as u64 {
        found.push(format!(
            "the daemons count {done} handovers for {} requests",
            outcomes.len()
        ));
    }
    found
}

/// The best request for a ladder: to another node if there is one, and with few segments.
pub(super) fn worth_a_ladder(outcomes: &[Outcome]) -> Option<&Outcome> {
    outcomes
        .iter()
        .filter(|o| o.inspecting().is_some() && o.processing().is_some())
        .min_by_key(|o| {
            // A body of a segment or so: not nothing, not many.
            let unfit = !(100..10_000).contains(&o.body_bytes);
            (o.inspecting() == o.processing(), unfit, o.body_bytes)
        })
}

/// One of the inspector's counters.
pub(super) fn inspector(stats: &StatsView, name: &str) -> u64 {
    stats.inspector.get(name).copied().unwrap_or(0)
}

/// A node's name, or `?`.
pub(super) fn name(node: Option<Place>) -> String {
    node.map_or_else(|| "?".to_owned(), |node| node.to_string())
}

fn names(nodes: &BTreeSet<Place>) -> String {
    if nodes.is_empty() {
        return "no node".to_owned();
    }
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    names.join(" and ")
}

fn the_one(nodes: &BTreeSet<Place>) -> Option<Place> {
    match nodes.len() {
        1 => nodes.first().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::traffic::Request;
    use super::*;
    use dts_lab::sha256;

    const N1: Place = Place::Node(1);
    const N2: Place = Place::Node(2);

    fn client() -> SocketAddr {
        "198.18.0.201:40000".parse().unwrap()
    }

    /// A request inspected by n1 and processed by n2, everything in order.
    fn good() -> (Fetch, Seen, Logs) {
        let head = b"HTTP/1.1 200 OK\r\nX-DTS-Node: n2\r\n\r\n".to_vec();
        let body = b"abc".to_vec();
        let stream = [head.as_slice(), &body].concat();
        let bytes = BTreeMap::from([(N2, stream.len() as u64)]);
        let seen = Seen {
            accepted_by: BTreeSet::from([N1]),
            accepted_for_client: BTreeSet::from([N1]),
            sent: bytes.clone(),
            received: bytes,
            stream,
        };
        let entry = AccessLogEntry {
            remote: client(),
            status: 200,
            body_bytes: 3,
            request_of_connection: 1,
            request: "GET /n2/x".to_owned(),
        };
        let fetch = Fetch {
            request: Request {
                path: "/n2/x".to_owned(),
                rule: Rule::Node(N2),
                sha256: Some(sha256(&body)),
            },
            port: client().port(),
            status: 200,
            head,
            body,
        };
        (fetch, seen, Logs::from([(N1, vec![]), (N2, vec![entry])]))
    }

    fn findings(change: impl FnOnce(&mut Fetch, &mut Seen, &mut Logs)) -> Vec<Finding> {
        let (mut fetch, mut seen, mut logs) = good();
        change(&mut fetch, &mut seen, &mut logs);
        Outcome::from_seen(1, &fetch, client(), &seen, &logs).findings()
    }

    #[test]
    fn agreement_is_no_finding() {
        assert_eq!(findings(|_, _, _| {}), Vec::<String>::new());
    }

    #[test]
    fn every_disagreement_is_found() {
        let found = |change: fn(&mut Fetch, &mut Seen, &mut Logs), text: &str| {
            let findings = findings(change);
            assert!(
                findings.iter().any(|f| f.contains(text)),
                "{text}: {findings:?}"
            );
        };
        found(|_, s, _| s.accepted_by.extend([N2]), "not by one node");
        found(
            |_, s, _| s.accepted_for_client = [N2].into(),
            "the SYN-ACK left n1",
        );
        found(
            |_, s, _| s.received.extend([(N1, 7)]),
            "came from n1 and n2",
        );
        found(|_, s, _| s.sent.extend([(N1, 7)]), "nodes sent");
        found(|_, s, _| s.stream.push(b'!'), "or others");
        found(|f, _, _| f.status = 404, "status 404");
        found(|f, _, _| f.body[0] = b'z', "wrong checksum");
        found(|f, _, _| f.head.clear(), "the response names ?");
        found(
            |_, _, l| l.get_mut(&N2).unwrap().clear(),
            "logged by no node",
        );
        found(
            |f, _, _| f.request.rule = Rule::Node(N1),
            "against the rules",
        );
        found(|f, _, _| f.request.rule = Rule::Local, "against the rules");
    }

    #[test]
    fn one_uri_has_one_node_and_every_request_a_handover() {
        let (mut fetch, seen, logs) = good();
        fetch.request.rule = Rule::Uri;
        let first = Outcome::from_seen(1, &fetch, client(), &seen, &logs);
        let mut second = first.clone();
        let mut stats = StatsView::default();
        stats.inspector.insert("handovers.done".to_owned(), 2);
        let outcomes = [first.clone(), second.clone()];
        assert_eq!(overall(&outcomes, &[stats.clone()]), Vec::<String>::new());

        (second.logged, second.named) = ([N1].into(), Some(N1));
        assert_eq!(overall(&[first.clone(), second], &[stats.clone()]).len(), 1);
        assert_eq!(overall(&[first], &[stats]).len(), 1);
    }
}
