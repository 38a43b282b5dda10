//! Where things belong: the ring of inspecting nodes, and the node that processes a request.

mod ring;

use std::sync::atomic::{AtomicBool, Ordering};

use dts_core::ring::RingHashSpec;

use crate::config::{Config, Member, NodeId};
use crate::inspect::TargetChoice;

pub use ring::{NodeIndex, Ring, RingMember, TooManyPoints};

/// Resolves an inspector's choices to members.
///
/// Requests have a ring of their own, with points of every member: a node may process without
/// inspecting (the paper's single inspector). A member that is not eligible is passed over as if it
/// had left: its keys fall to the nodes before it on the ring, its turns to the next node.
#[derive(Debug)]
pub struct Placement {
    members: Vec<Target>,
    local: NodeIndex,
    requests: Ring,
}

#[derive(Debug)]
struct Target {
    member: Member,
    eligible: AtomicBool,
}

impl Placement {
    /// A placement with every member eligible; `hash` is the ring's.
    ///
    /// # Errors
    ///
    /// When the members have too many points, which a checked configuration doesn't.
    pub fn new(config: &Config, hash: RingHashSpec) -> Result<Self, TooManyPoints> {
        let targets = config.members.iter().cloned();
        Ok(Self {
            members: targets
                .map(|member| Target {
                    member,
                    eligible: AtomicBool::new(true),
                })
                .collect(),
            local: NodeIndex(config.this_member().0 as u32),
            requests: Ring::of_requests(0, hash, config)?,
        })
    }

    /// The member that a connection goes to; `None` when the choice leaves no eligible one.
    pub fn resolve(&self, choice: &TargetChoice) -> Option<(NodeIndex, &Member)> {
        let index = match choice {
            TargetChoice::Nodes(set) => self.first_eligible(set.take_turn()),
            choice => self.without_turn(choice),
        }?;
        Some((index, &self.target(index)?.member))
    }

    /// The same, but by the flow's `place` on the ring where there are turns: whichever node asks, the answer is the same.
    pub fn resolve_for(&self, choice: &TargetChoice, place: u64) -> Option<(NodeIndex, &Member)> {
        let index = match choice {
            TargetChoice::Nodes(set) => self.first_eligible(set.from_place(place)),
            choice => self.without_turn(choice),
        }?;
        Some((index, &self.target(index)?.member))
    }

    fn first_eligible<'a>(&self, mut ids: impl Iterator<Item = &'a NodeId>) -> Option<NodeIndex> {
        ids.find_map(|id| {
            let position = self
                .members
                .iter()
                .position(|known| known.member.id == *id)?;
            Some(NodeIndex(position as u32)).filter(|index| self.is_eligible(*index))
        })
    }

    fn without_turn(&self, choice: &TargetChoice) -> Option<NodeIndex> {
        match choice {
            TargetChoice::Local => Some(self.local).filter(|index| self.is_eligible(*index)),
            TargetChoice::Nodes(_) => None,
            TargetChoice::Key(hash) => self
                .requests
                .owner_of_hash_among(*hash, |index| self.is_eligible(index)),
        }
    }

    /// Says whether a member may be given connections. Unknown members are ignored.
    pub fn set_eligible(&self, index: NodeIndex, eligible: bool) {
        if let Some(target) = self.target(index) {
            target.eligible.store(eligible, Ordering::Relaxed);
        }
    }

    /// Whether a member may be given connections.
    pub fn is_eligible(&self, index: NodeIndex) -> bool {
        self.target(index)
            .is_some_and(|target| target.eligible.load(Ordering::Relaxed))
    }

    /// The ring that keys are placed on.
    pub fn requests(&self) -> &Ring {
        &self.requests
    }

    fn target(&self, index: NodeIndex) -> Option<&Target> {
        self.members.get(index.0 as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::inspect::NodeSet;

    fn config() -> Config {
        let text = r#"
            cluster = { name = "demo", secret_file = "/etc/dts/secret" }
            node = { id = "n2", front = "eth0", back = "eth1", address = "198.18.1.12" }
            membership.members = [
              { id = "n1", address = "198.18.1.11" }, { id = "n2", address = "198.18.1.12" },
              { id = "n3", address = "198.18.1.13", inspect = false },
            ]"#;
        Config::parse(Path::new("dts.toml"), text).unwrap().0
    }

    fn placement() -> Placement {
        Placement::new(&config(), RingHashSpec::default()).unwrap()
    }

    fn nodes(names: &[&str]) -> TargetChoice {
        let ids: Vec<_> = names.iter().map(|name| NodeId::unchecked(name)).collect();
        TargetChoice::Nodes(Arc::new(NodeSet::new(ids)))
    }

    fn resolved(placement: &Placement, choice: &TargetChoice) -> Option<String> {
        placement
            .resolve(choice)
            .map(|(_, member)| member.id.to_string())
    }

    #[test]
    fn local_is_this_node() {
        let placement = placement();
        assert_eq!(
            resolved(&placement, &TargetChoice::Local).as_deref(),
            Some("n2")
        );
        placement.set_eligible(NodeIndex(1), false);
        assert_eq!(resolved(&placement, &TargetChoice::Local), None);
    }

    #[test]
    fn nodes_are_used_in_turn_and_passed_over_when_not_eligible() {
        let placement = placement();
        let choice = nodes(&["n3", "unknown", "n1"]);
        let turns = || -> Vec<_> {
            (0..3)
                .map(|_| resolved(&placement, &choice).unwrap())
                .collect()
        };
        assert_eq!(turns(), ["n3", "n1", "n1"]);
        placement.set_eligible(NodeIndex(2), false);
        assert_eq!(turns(), ["n1", "n1", "n1"]);
        placement.set_eligible(NodeIndex(0), false);
        assert_eq!(resolved(&placement, &choice), None);
        assert_eq!(resolved(&placement, &nodes(&["unknown"])), None);
    }

    #[test]
    fn requests_go_to_nodes_that_do_not_inspect_too() {
        let config = config();
        let flows = Ring::of_flows(1, RingHashSpec::default(), &config).unwrap();
        let requests = placement().requests;
        let points = |ring: &Ring, node| ring.points().iter().filter(|p| p.node == node).count();
        assert_eq!(
            (0..3).map(|node| points(&flows, node)).collect::<Vec<_>>(),
            [63, 63, 0]
        );
        assert_eq!(
            (0..3)
                .map(|node| points(&requests, node))
                .collect::<Vec<_>>(),
            [63, 63, 63]
        );
    }

    proptest! {
        #[test]
        fn a_key_stays_where_it_is_while_its_node_is_eligible(key: u64, out in 0u32..3) {
            let placement = placement();
            let (before, _) = placement.resolve(&TargetChoice::Key(key)).unwrap();
            placement.set_eligible(NodeIndex(out), false);
            let (after, _) = placement.resolve(&TargetChoice::Key(key)).unwrap();
            prop_assert_eq!(before == after, before != NodeIndex(out));
            placement.set_eligible(NodeIndex(out), true);
            let (again, _) = placement.resolve(&TargetChoice::Key(key)).unwrap();
            prop_assert_eq!(again, before);
        }
    }
}
