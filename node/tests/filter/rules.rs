//! Where a request goes, filter and daemon agree: whenever the filter decides by itself, the daemon's inspector would
//! have chosen the same node. And it does decide, unless it has a reason not to.
//!
//! The rules are random, and compiled as the daemon compiles them; so are the heads, from plain ones to such as no client
//! sends. How many are asked about, `DTS_HEADS` says; `DTS_SEED` repeats a run.

mod configuration;
mod heads;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::adoption::{RULE_HOST, Target, rules, ruling, stage};
use dts_core::head::{HEAD, bytes, scan};
use dts_core::ring::{RingHash, RingHashSpec, RingPoint, flow_hash};
use dts_core::verdict::{Action, COUNTERS, Verdict};
use dts_node::current::{Current, Inspectors};
use dts_node::inspect::{ConnectionInfo, Decision, TargetChoice};
use dts_node::placement::NodeIndex;
use dts_node::processes::Sockets;
use dts_node::rules::told;

use self::configuration::{FIRST_PORT, NODES, SERVICES, address, any_configuration};
use self::heads::any_head;
use crate::adopting::{TERMS, answering, cookie_of};
use crate::bench::{Bench, OWN, REDIRECT, SHOT, UNSPEC, VIP};
use crate::world::addr;

/// Heads that are asked about under the same configuration, with the same nodes alive.
const BATCH: usize = 2_000;
/// After so many the requests for the daemon are read away: they must not fill the ring buffer.
const READ_AFTER: usize = 500;

/// How much of a segment the filter looks at for a request line.
const LINE: usize = 512;

/// What has become of requests.
#[derive(Default, Debug)]
struct Tally {
    asked: u64,
    local: u64,
    by_set: u64,
    by_key: u64,
}

impl Tally {
    fn decided(&self) -> u64 {
        self.local + self.by_set + self.by_key
    }

    fn all(&self) -> u64 {
        self.asked + self.decided()
    }
}

#[test]
fn filter_and_inspector_agree_on_a_million_heads() {
    let seed = std::env::var("DTS_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("DTS_SEED is a number"),
    );
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let heads = match std::env::var("DTS_HEADS") {
        Ok(text) => text.parse().expect("DTS_HEADS is a number"),
        Err(_) => 1_000_000,
    };
    let bench = Bench::new(1024);
    let mut tally = Tally::default();
    for batch in 0..usize::div_ceil(heads, BATCH) {
        let hash = RingHash::SipHash {
            key: rng.u128(..).to_ne_bytes(),
        };
        let text = any_configuration(&mut rng);
        let node = Node::new(&bench, &text, hash.into(), &mut rng);
        node.batch(&bench, &mut rng, &mut tally, (seed, batch));
    }
    println!("{tally:?}");
    // A test in which the filter decided nothing would prove nothing. A few rules may happen to say little.
    let share = |part: u64| part * 100 / tally.all().max(1);
    println!("the filter decided {} %", share(tally.decided()));
    if heads >= 100_000 {
        assert!(share(tally.decided()) >= 35, "{tally:?}");
        for part in [tally.local, tally.by_set, tally.by_key, tally.asked] {
            assert!(share(part) >= 5, "{tally:?}");
        }
    }
}

/// A configuration in use by daemon and filter.
struct Node {
    current: Current,
    text: String,
    alive: Vec<bool>,
}

impl Node {
    /// Puts a configuration into use, as the daemon does; some of the nodes are gone.
    fn new(bench: &Bench, text: &str, hash: RingHashSpec, rng: &mut fastrand::Rng) -> Self {
        bench.set_up();
        let filter = &bench.filter;
        let (config, _) = dts_node::config::Config::parse("dts.toml".as_ref(), text)
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        let current = Current::new(config, hash, 1, &Inspectors::new(), &Sockets::default())
            .expect("few points");
        let old = filter.rules().expect("rules");
        let told = told(&current, |_| true, &old, &[]);
        filter.add_rules(&told.tables).expect("room for the rules");
        let requests = current.placement.requests();
        let nodes: Vec<_> = (0..NODES).map(|i| addr(address(i))).collect();
        filter
            .publish_requests(*requests.hash(), requests.points(), &nodes)
            .expect("a ring");
        filter.set_services(&told.services).expect("services");
        filter.remove_rules(&old);
        // All flows are this node's.
        filter
            .publish_ring(0, 1, hash, &[RingPoint::new(5, 0)], Duration::ZERO)
            .expect("a ring");
        // This node knows that it is alive, and is no target of its own frames.
        let alive: Vec<_> = (0..NODES).map(|i| i == 0 || rng.u8(..) > 40).collect();
        let mut targets = Vec::new();
        for (i, alive) in (0..NODES).zip(&alive) {
            current.placement.set_eligible(NodeIndex(i.into()), *alive);
            let target = Target {
                mac: [2, 0, 0, 0, 1, i],
                reachable: u16::from(*alive),
            };
            if i != 0 {
                targets.push((addr(address(i)), target));
            }
        }
        filter.set_targets(&targets).expect("targets");
        Self {
            current,
            text: text.to_owned(),
            alive,
        }
    }

    /// Asks about a batch of heads; each frame met one of the verdicts that its result says.
    fn batch(
        &self,
        bench: &Bench,
        rng: &mut fastrand::Rng,
        tally: &mut Tally,
        (seed, batch): (u64, usize),
    ) {
        let before = bench.stats();
        let mut here = Tally::default();
        for n in 0..BATCH {
            if n % READ_AFTER == 0 {
                bench.take_requests();
            }
            let service = rng.usize(..SERVICES);
            let head = any_head(rng, &self.current.config.services[service]);
            let flow = flow_of((batch * BATCH + n) as u32, service);
            let chosen = ask(bench, &flow, &head, &mut here);
            let expected = self.inspected(service, &flow, &head);
            let agrees = match chosen {
                Some(target) => expected == Ok(target),
                None => self.may_ask(service, &head),
            };
            assert!(
                agrees,
                "seed {seed}, batch {batch}, {flow}: {chosen:?} instead of {expected:?} for service \
                 {service} of\n{}\nalive {:?}\n{}",
                self.text,
                self.alive,
                head.escape_ascii()
            );
        }
        let after = bench.stats();
        let grown = |action| {
            let index = Verdict::Done(action).counter() as usize;
            after[index].1 - before[index].1
        };
        let counted = [Action::Inquired, Action::Refused, Action::SentOn].map(grown);
        let sent = here.by_set + here.by_key;
        assert_eq!(counted, [here.asked, here.local, sent], "seed {seed}");
        assert_eq!(after.len(), COUNTERS as usize);
        tally.asked += here.asked;
        tally.local += here.local;
        tally.by_set += here.by_set;
        tally.by_key += here.by_key;
    }

    /// Whether the filter has a reason to leave this to the daemon. It must not do so for plain requests.
    fn may_ask(&self, service: usize, head: &[u8]) -> bool {
        let inspected = &self.current.inspected[service];
        let bits = inspected.compiled.as_ref().map_or(0, |c| c.bits);
        let with_host = bits & rules::HOST != 0;
        let read = head.len().min(if with_host { HEAD } else { LINE });
        let scanned = scan(&bytes(&head[..read]), read, with_host);
        let host = (scanned.host_end - scanned.host) as usize;
        if bits & rules::LINE == 0 || !scanned.is_plain() || host > RULE_HOST {
            return true;
        }
        // Of a key's owner that is gone the daemon says who comes next.
        match self.choice(service, head) {
            Ok(TargetChoice::Key(hash)) => {
                let requests = self.current.placement.requests();
                let owner = requests.owner_of_hash_among(hash, |_| true);
                owner.is_none_or(|node| !self.alive[node.0 as usize])
            }
            Ok(choice @ TargetChoice::Nodes(_)) => {
                self.current.placement.resolve_for(&choice, 0).is_none()
            }
            _ => false,
        }
    }

    /// The node that the daemon would choose.
    fn inspected(&self, service: usize, flow: &FlowKey, head: &[u8]) -> Result<Addr, String> {
        let choice = self.choice(service, head)?;
        let place = flow_hash(self.current.flows.hash(), &flow.remote, flow.remote_port);
        match self.current.placement.resolve_for(&choice, place) {
            Some((_, member)) => Ok(Addr::from(member.address)),
            None => Err(format!("nobody for {choice:?}")),
        }
    }

    /// What the inspector says.
    fn choice(&self, service: usize, head: &[u8]) -> Result<TargetChoice, String> {
        let end = SocketAddr::from((Ipv4Addr::from(VIP), FIRST_PORT));
        // It doesn't look at them.
        let info = ConnectionInfo {
            remote: end,
            local: end,
        };
        match self.current.inspected[service]
            .inspector
            .inspect(&info, head)
        {
            Decision::Handover(choice) => Ok(choice),
            other => Err(format!("{other:?}")),
        }
    }
}

/// A flow that no other number has: a request on one that is known would be its first one's repetition.
fn flow_of(number: u32, service: usize) -> FlowKey {
    // An odd factor: no two numbers have the same product.
    let [high, low, port @ ..] = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
    let port = u16::from_be_bytes(port);
    let net = if port == 0 { 18 } else { 19 };
    FlowKey {
        remote: addr([198, net, high, low]),
        local: addr(VIP),
        remote_port: port.max(1),
        local_port: FIRST_PORT + service as u16,
    }
}

/// Gives the filter a request that begins like this: the node that it chooses, if it does.
fn ask(bench: &Bench, flow: &FlowKey, head: &[u8], tally: &mut Tally) -> Option<Addr> {
    let segment = answering(flow, &cookie_of(flow, &TERMS, 0), head);
    let (code, _) = bench.run("front_ingress", &segment.frame());
    match code {
        SHOT => {
            tally.asked += 1;
            None
        }
        // Nothing listens here.
        UNSPEC => {
            tally.local += 1;
            Some(addr(OWN))
        }
        REDIRECT => {
            let known = bench.filter.adoption(flow).expect("records");
            let known = known.expect("the record just made");
            assert_eq!(known.stage, stage::SENT);
            assert_eq!(known.server_isn.plus(1).0, segment.ack);
            match ruling::kind(known.ruling) {
                ruling::SET => tally.by_set += 1,
                ruling::KEY => tally.by_key += 1,
                other => panic!("ruling {other:x} sends nothing"),
            }
            Some(known.target)
        }
        other => panic!("result {other}"),
    }
}
