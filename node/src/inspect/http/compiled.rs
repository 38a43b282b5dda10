//! Rules in the form that the filter looks them up in.
//!
//! A service's rules are a list of which the first match decides. The filter has tables: for each host that a rule names,
//! and for all other hosts, one of whole paths and one of beginnings, of which the longest match counts. Each entry's
//! ruling is that of the first rule in the list that matches whatever leads to the entry, so both say the same.
//!
//! What the tables can't say, a request that the filter can't read, and everything beyond a limit is left to
//! [`HttpInspector`](super::HttpInspector).

use std::collections::{BTreeMap, BTreeSet};

use dts_core::entry::adoption::{RULE_HOST, RULE_PATH, SET_NODES, rules, ruling};
use dts_core::head::HEAD;

use crate::config::{Fate, NodeId, Protocol, Service, Target};

/// How many entries the tables of a service may have together.
const MOST_ENTRIES: usize = 16_384;

/// The compiled rules of a service. Tables and sets are numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// [`rules`] bits.
    pub bits: u32,
    /// The ruling for requests that no rule is for.
    pub default: u32,
    /// Hosts in lower case, with their table. Table 0 is for all others.
    pub hosts: BTreeMap<String, u32>,
    /// Whole paths: the rulings, by table and path.
    pub paths: BTreeMap<(u32, String), u32>,
    /// Paths' beginnings: the rulings, by table and beginning.
    pub prefixes: BTreeMap<(u32, String), u32>,
    /// Sets of nodes, by number.
    pub sets: Vec<Vec<NodeId>>,
    /// How many bytes are waited for where requests are not read.
    pub bytes: Option<u16>,
}

/// A rule as far as one host is concerned.
struct Candidate<'a> {
    path: Option<&'a str>,
    prefix: &'a str,
    ruling: u32,
}

impl Candidate<'_> {
    /// Whether the rule is for this path.
    fn matches(&self, path: &str) -> bool {
        self.path.is_none_or(|whole| whole == path) && path.starts_with(self.prefix)
    }

    /// Whether the rule is for every path that begins like this.
    fn matches_all(&self, beginning: &str) -> bool {
        self.path.is_none() && beginning.starts_with(self.prefix)
    }
}

impl Compiled {
    /// Compiles a service's rules. Where the filter can't have them, the bits say so.
    #[must_use]
    pub fn new(service: &Service) -> Self {
        let mut sets = Vec::new();
        let mut number = |target: &Target| match target {
            Target::Local => ruling::LOCAL,
            Target::HashUri | Target::HashLine => ruling::KEY,
            Target::Nodes(nodes) => {
                let known = sets.iter().position(|set| set == nodes);
                let position = known.unwrap_or_else(|| {
                    sets.push(nodes.clone());
                    sets.len() - 1
                });
                ruling::SET | position as u32
            }
        };
        let default = number(&service.default);
        let rulings: Vec<u32> = service.rules.iter().map(|rule| number(&rule.to)).collect();
        let mut compiled = Self {
            bits: 0,
            default,
            hosts: (1..)
                .zip(hosts(service))
                .map(|(n, host)| (host, n))
                .collect(),
            paths: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            sets,
            bytes: match service.protocol {
                Protocol::Http | Protocol::Line => None,
                Protocol::Bytes(bytes) => Some(bytes),
            },
        };
        for host in [None]
            .into_iter()
            .chain(compiled.hosts.clone().into_keys().map(Some))
        {
            let table = host.as_ref().map_or(0, |host| compiled.hosts[host]);
            compiled.add_table(table, &candidates(service, &rulings, host.as_deref()));
        }
        compiled.bits = compiled.wanted_bits(service);
        compiled
    }

    fn add_table(&mut self, table: u32, candidates: &[Candidate<'_>]) {
        let first = |matches: &dyn Fn(&Candidate<'_>) -> bool| {
            candidates.iter().find(|c| matches(c)).map(|c| c.ruling)
        };
        for candidate in candidates {
            match candidate.path {
                Some(path) => {
                    if let Some(ruling) = first(&|c| c.matches(path)) {
                        self.paths.insert((table, path.to_owned()), ruling);
                    }
                }
                None => {
                    let prefix = candidate.prefix;
                    if let Some(ruling) = first(&|c| c.matches_all(prefix)) {
                        self.prefixes.insert((table, prefix.to_owned()), ruling);
                    }
                }
            }
        }
    }

    /// What the service's entry says. Nothing when a name is no key, there is too much of something, or the
    /// inspector gives up on requests that the filter would read.
    fn wanted_bits(&self, service: &Service) -> u32 {
        let rescue = match service.on_unreachable {
            Fate::Default => rules::RESCUE,
            Fate::Reset => 0,
        };
        if !self.sets.iter().all(|set| set.len() <= SET_NODES) {
            return rescue;
        }
        if self.bytes.is_some() {
            return rescue | rules::BYTES;
        }
        let texts = self.paths.keys().chain(self.prefixes.keys());
        let fits = texts
            .map(|(_, text)| text.len())
            .all(|len| len <= RULE_PATH)
            // An empty name, which a rule writes as ".", is to the filter as good as none.
            && self.hosts.keys().all(|host| (1..=RULE_HOST).contains(&host.len()))
            && self.paths.len() + self.prefixes.len() + self.hosts.len() <= MOST_ENTRIES
            && service.undecided_bytes >= HEAD;
        if !fits {
            return rescue;
        }
        let mut bits = rescue | rules::LINE;
        for (is, bit) in [
            (service.each_request, rules::EACH),
            (!self.hosts.is_empty(), rules::HOST),
            (!self.paths.is_empty(), rules::PATHS),
            (!self.prefixes.is_empty(), rules::PREFIXES),
        ] {
            bits |= if is { bit } else { 0 };
        }
        bits
    }
}

/// The hosts that rules name.
fn hosts(service: &Service) -> BTreeSet<String> {
    let named = service
        .rules
        .iter()
        .filter_map(|rule| rule.matcher.host.clone());
    named.map(|host| host.to_ascii_lowercase()).collect()
}

/// What of the rules is for a host; `None` stands for all hosts that no rule names.
fn candidates<'a>(service: &'a Service, rulings: &[u32], host: Option<&str>) -> Vec<Candidate<'a>> {
    let kept = service.keep_local.iter().map(|prefix| Candidate {
        path: None,
        prefix,
        ruling: ruling::LOCAL,
    });
    let rules = service
        .rules
        .iter()
        .zip(rulings)
        .filter_map(|(rule, ruling)| {
            let matcher = &rule.matcher;
            let wanted = matcher.host.as_deref();
            let is_for = wanted.is_none_or(|w| host.is_some_and(|h| w.eq_ignore_ascii_case(h)));
            is_for.then_some(Candidate {
                path: matcher.path.as_deref(),
                prefix: matcher.path_prefix.as_deref().unwrap_or(""),
                ruling: *ruling,
            })
        });
    kept.chain(rules).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    /// The bits of a service with one rule.
    fn bits(rule: &str) -> u32 {
        bits_of(&format!("rule = [{{ {rule}, to = \"local\" }}]"))
    }

    /// The bits of a service with these lines, in a cluster of 17 nodes.
    fn bits_of(lines: &str) -> u32 {
        let members =
            (1..=17).map(|n| format!("{{ id = \"n{n}\", address = \"198.18.1.{}\" }}", 10 + n));
        let members: Vec<_> = members.collect();
        let members = members.join(", ");
        let text = format!(
            r#"
            cluster = {{ name = "demo", secret_file = "/etc/dts/secret" }}
            node = {{ id = "n1", front = "eth0", back = "eth1", address = "198.18.1.11" }}
            membership.members = [{members}]
            [[service]]
            name = "web"
            vip = "198.18.0.100"
            port = 80
            mode = "l7"
            inspector_port = 8081
            {lines}"#
        );
        let (config, _) = Config::parse(Path::new("dts.toml"), &text).unwrap();
        Compiled::new(&config.services[0]).bits & !rules::RESCUE
    }

    #[test]
    fn rules_that_the_filter_cannot_have_are_the_inspectors() {
        const EACH: u32 = rules::LINE | rules::EACH;
        const PREFIX: u32 = EACH | rules::PREFIXES;
        let path = |len| format!("path = \"/{}\"", "a".repeat(len - 1));
        let host = |len| format!("host = \"{}\"", "a".repeat(len));
        assert_eq!(bits(&path(RULE_PATH)), EACH | rules::PATHS);
        assert_eq!(bits(&path(RULE_PATH + 1)), 0);
        assert_eq!(bits(&host(RULE_HOST)), PREFIX | rules::HOST);
        assert_eq!(bits(&host(RULE_HOST + 1)), 0);
        // An empty name is not the same as none.
        assert_eq!(bits("host = \".\""), 0);
        assert_eq!(bits("path_prefix = \"/\""), PREFIX);
        let nodes = |count| {
            let nodes: Vec<_> = (1..=count).map(|n| format!("\"n{n}\"")).collect();
            format!(
                "protocol = {{ bytes = 4 }}\ndefault = {{ nodes = [{}] }}",
                nodes.join(", ")
            )
        };
        assert_eq!(bits_of(&nodes(SET_NODES)), rules::BYTES);
        assert_eq!(bits_of(&nodes(SET_NODES + 1)), 0);
    }
}
