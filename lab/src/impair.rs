//! What is wrong with a network: loss, duplication, reordering, delay, partition.
//!
//! Loss, duplication and partition are nftables rules at the hub's ports. Delay and reordering need
//! memory, which nftables has not, and `sch_netem` is missing in many kernels: a
//! [`crate::delay_line`] between a port and its bridge does them.
//!
//! An impairment of a whole network acts once on each frame, where the frame leaves the hub; a
//! flooded frame meets it once per receiver. An impairment of one place acts on what goes to the
//! place, comes from it, or both.
//!
//! While frames are lost, duplicated or overtaken, the senders of that network do not leave
//! segmentation to the (virtual) hardware: otherwise one 64 KB frame, the loss of which is a burst
//! of 45 segments, would count as one.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::delay_line::{self, Line, Shape};
use crate::error::{LabError, Result};
use crate::lab::Lab;
use crate::lock::Lock;
use crate::netns;
use crate::nft;
use crate::place::{Network, Place};
use crate::process::LabProcess;
use crate::spec::LabSpec;
use crate::topology;

/// Something wrong with a network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Impairment {
    /// Which network.
    pub network: Network,
    /// One place only, or the whole network.
    pub place: Option<Place>,
    /// Of one place: which way. Of a whole network it says nothing.
    pub direction: Direction,
    /// What is wrong.
    pub effect: Effect,
}

/// Which way an impairment of one place acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Both ways: a round trip meets it twice.
    #[default]
    Both,
    /// What the place receives.
    To,
    /// What the place sends.
    From,
}

/// What is wrong with a network. Rates are parts of one: 0.01 is one percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// This part of the frames is lost.
    Loss(f64),
    /// This part of the frames arrives twice (and of the duplicates the same part again).
    Duplicate(f64),
    /// This part of the frames is overtaken by those sent in the next milliseconds.
    Reorder(f64),
    /// Every frame arrives later. Jitter keeps the order.
    Delay {
        /// By this much, one way.
        delay: Duration,
        /// And up to this much more.
        jitter: Duration,
    },
    /// Nothing arrives.
    Partition,
}

/// The rates of one port, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
}

/// What all impairments together mean for one port, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Port {
    pub(crate) rates: Rates,
    shape: Shape,
}

/// To and from each impaired place.
pub(crate) type Ports = BTreeMap<(Network, Place), (Port, Port)>;

/// The current impairments, in the lab's directory.
const STATE: &str = "impairments.json";
/// The delay line's input.
const DELAY_LINE: &str = "delay-line.json";
/// The delay line's process.
const DELAY_LINE_TAG: &str = "delay-line";

impl Impairment {
    /// An impairment of a whole network.
    pub fn of_network(network: Network, effect: Effect) -> Self {
        Self {
            network,
            place: None,
            direction: Direction::Both,
            effect,
        }
    }

    /// An impairment of one place's connection to a network, both ways.
    pub fn of_place(network: Network, place: Place, effect: Effect) -> Self {
        Self {
            network,
            place: Some(place),
            direction: Direction::Both,
            effect,
        }
    }

    /// The same, one way only.
    pub fn one_way(self, direction: Direction) -> Self {
        Self { direction, ..self }
    }

    pub(crate) fn validate(&self, spec: &LabSpec) -> Result<()> {
        if let Some(place) = self.place
            && !spec.ports(self.network).contains(&place)
        {
            return Err(LabError::InvalidSpec(format!(
                "`{self}`: {place} is not on the {} network",
                self.network
            )));
        }
        match self.effect {
            Effect::Loss(rate) | Effect::Duplicate(rate) | Effect::Reorder(rate)
                if !(0.0..=1.0).contains(&rate) =>
            {
                Err(LabError::InvalidSpec(format!(
                    "`{self}`: a rate is between 0% and 100%"
                )))
            }
            Effect::Delay { delay, jitter } if delay + jitter > Duration::from_secs(60) => Err(
                LabError::InvalidSpec(format!("`{self}`: the longest delay is 60s")),
            ),
            _ => Ok(()),
        }
    }

    /// Whether `other` says the same thing, with another number: then the later one counts.
    fn replaces(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.effect) == std::mem::discriminant(&other.effect)
            && (self.network, self.place, self.direction)
                == (other.network, other.place, other.direction)
    }
}

impl Lab {
    /// Adds an impairment. One of the same kind, place and direction is replaced; a rate or delay
    /// of 0 removes it.
    pub fn impair(&self, impairment: &Impairment) -> Result<()> {
        impairment.validate(self.spec())?;
        let mut all = self.impairments()?;
        all.retain(|earlier| !impairment.replaces(earlier));
        all.push(*impairment);
        self.set_impairments(&all)
    }

    /// Removes all impairments.
    pub fn clear_impairments(&self) -> Result<()> {
        self.set_impairments(&[])
    }

    /// The impairments in force.
    pub fn impairments(&self) -> Result<Vec<Impairment>> {
        let path = self.dir().join(STATE);
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| LabError::Malformed {
                path,
                message: error.to_string(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(LabError::io("cannot read", &path)(error)),
        }
    }

    /// Makes these the impairments in force. Frames that a delay line holds at this moment are lost
    /// if delays change.
    pub fn set_impairments(&self, all: &[Impairment]) -> Result<()> {
        all.iter()
            .try_for_each(|impairment| impairment.validate(self.spec()))?;
        let _lock = Lock::acquire()?;
        let path = self.dir().join(STATE);
        let json = serde_json::to_vec_pretty(all).expect("impairments are JSON");
        fs::write(&path, json).map_err(LabError::io("cannot write", &path))?;

        let ports = combine(self.spec(), all);
        self.set_delay_line(&ports)?;
        self.set_segmentation(&ports)?;
        let hub = self.namespace(Place::Hub)?;
        let rules = nft::rules(self.spec(), &ports);
        netns::within(&hub, || {
            netns::run_with_input(Command::new("nft").args(["-f", "-"]), &rules)
        })?
    }

    /// Starts, changes or ends the delay line.
    fn set_delay_line(&self, ports: &Ports) -> Result<()> {
        let lines = lines(ports);
        let path = self.dir().join(DELAY_LINE);
        let before: Vec<Line> = fs::read(&path)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        let running = self.process(Place::Hub, DELAY_LINE_TAG);
        if before == lines && running.as_ref().is_some_and(LabProcess::is_alive) != lines.is_empty()
        {
            return Ok(());
        }
        if let Some(running) = running {
            running.stop();
        }
        let hub = self.namespace(Place::Hub)?;
        netns::ip_batch(&hub, &rewire(self.spec(), &before, &lines))?;
        let json = serde_json::to_vec_pretty(&lines).expect("lines are JSON");
        fs::write(&path, json).map_err(LabError::io("cannot write", &path))?;
        if !lines.is_empty() {
            self.start_delay_line(&path)?;
        }
        topology::wait_until_connected(self.spec())
    }

    fn start_delay_line(&self, config: &Path) -> Result<()> {
        let mut command = Command::new(&self.spec().dts_exe);
        command.args(["lab", "delay-line"]).arg(config);
        // Its log is looked at below: that of an earlier one must not be taken for it.
        let _ = fs::remove_file(self.log_path(Place::Hub, DELAY_LINE_TAG));
        let process = self.spawn_tagged(Place::Hub, DELAY_LINE_TAG, &command)?;
        self.wait_ready("the delay line", &process, Duration::from_secs(5), || {
            fs::read(process.log_path())
                .is_ok_and(|log| log.starts_with(delay_line::READY.as_bytes()))
        })
    }

    /// Has the senders of lossy networks segment in software, and the others leave it to the
    /// interface.
    fn set_segmentation(&self, ports: &Ports) -> Result<()> {
        for network in Network::ALL {
            let lossy = ports.iter().any(|((of, _), (to, from))| {
                *of == network && (to.picks_frames() || from.picks_frames())
            });
            let mark = self.dir().join(format!("segmented-{network}"));
            if lossy == mark.exists() {
                continue;
            }
            let state = if lossy { "off" } else { "on" };
            for place in self.spec().ports(network) {
                let namespace = netns::name(&self.spec().name, place);
                let mut command = Command::new("ethtool");
                command.args(["-K", network.interface(), "tso", state, "gso", state]);
                netns::run_in(&namespace, &mut command)?;
            }
            match lossy {
                true => fs::write(&mark, ""),
                false => fs::remove_file(&mark),
            }
            .map_err(LabError::io("cannot change", &mark))?;
        }
        Ok(())
    }
}

/// The port that a place has at its bridge: with a delay line in between, that is an end of the
/// delay line's veth pair.
pub(crate) fn bridge_port(ports: &Ports, network: Network, place: Place) -> String {
    let port = place.hub_port(network);
    match ports.get(&(network, place)) {
        Some((to, from)) if to.needs_line() || from.needs_line() => inner_port(&port),
        _ => port,
    }
}

/// The bridge's end of a delay line.
fn inner_port(port: &str) -> String {
    format!("{port}d")
}

/// The other end of the veth pair of which [`inner_port`] is in the bridge; the delay line has it.
fn line_port(port: &str) -> String {
    format!("{port}x")
}

/// All impairments together, for each port and direction.
fn combine(spec: &LabSpec, all: &[Impairment]) -> Ports {
    let mut ports = Ports::new();
    for impairment in all {
        let (places, direction) = match impairment.place {
            Some(place) => (vec![place], impairment.direction),
            None => (spec.ports(impairment.network), Direction::To),
        };
        for place in places {
            let (to, from) = ports.entry((impairment.network, place)).or_default();
            if direction != Direction::From {
                to.add(impairment.effect);
            }
            if direction != Direction::To {
                from.add(impairment.effect);
            }
        }
    }
    ports
}

/// The delay lines that this takes.
fn lines(ports: &Ports) -> Vec<Line> {
    let delayed = ports
        .iter()
        .filter(|(_, (to, from))| to.needs_line() || from.needs_line());
    let line = |((network, place), (to, from)): (&(Network, Place), &(Port, Port))| {
        let place_side = place.hub_port(*network);
        let bridge_side = line_port(&place_side);
        Line {
            place_side,
            bridge_side,
            to_place: to.shape,
            from_place: from.shape,
        }
    };
    delayed.map(line).collect()
}

impl Port {
    /// Whether nftables alone cannot do it.
    fn needs_line(&self) -> bool {
        self.shape != Shape::default()
    }

    /// Whether frames fare differently, so that it matters what one frame is.
    fn picks_frames(&self) -> bool {
        let Rates { loss, duplicate } = self.rates;
        (loss > 0.0 && loss < 1.0) || duplicate > 0.0 || self.shape.reorder > 0.0
    }

    fn add(&mut self, effect: Effect) {
        match effect {
            Effect::Loss(rate) => self.rates.loss = either(self.rates.loss, rate),
            Effect::Duplicate(rate) => self.rates.duplicate = either(self.rates.duplicate, rate),
            Effect::Reorder(rate) => self.shape.reorder = either(self.shape.reorder, rate),
            Effect::Delay { delay, jitter } => {
                self.shape.delay += delay;
                self.shape.jitter += jitter;
            }
            Effect::Partition => self.rates.loss = 1.0,
        }
    }
}

/// The chance that at least one of two independent things happens.
fn either(a: f64, b: f64) -> f64 {
    a + b - a * b
}

/// The `ip` commands that put delay lines between ports and bridges, and take others out.
fn rewire(spec: &LabSpec, before: &[Line], after: &[Line]) -> String {
    let connected = |lines: &[Line], port: &str| lines.iter().any(|line| line.place_side == port);
    let mut script = String::new();
    for network in Network::ALL {
        for place in spec.ports(network) {
            let port = place.hub_port(network);
            let (inner, outer, mtu) = (inner_port(&port), line_port(&port), spec.mtu(network));
            let _ = match (connected(before, &port), connected(after, &port)) {
                (false, true) => writeln!(
                    script,
                    "link add name {inner} mtu {mtu} type veth peer name {outer} mtu {mtu}\n\
                     link set dev {outer} up\nlink set dev {port} nomaster\n\
                     link set dev {inner} master {network} up"
                ),
                (true, false) => writeln!(
                    script,
                    "link del dev {inner}\nlink set dev {port} master {network}"
                ),
                _ => Ok(()),
            };
        }
    }
    script
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.network)?;
        if let Some(place) = self.place {
            write!(f, ".{place}")?;
            match self.direction {
                Direction::Both => {}
                Direction::To => f.write_str(".to")?,
                Direction::From => f.write_str(".from")?,
            }
        }
        match self.effect {
            Effect::Loss(rate) => write!(f, " loss {}%", rate * 100.0),
            Effect::Duplicate(rate) => write!(f, " duplication {}%", rate * 100.0),
            Effect::Reorder(rate) => write!(f, " reordering {}%", rate * 100.0),
            Effect::Delay { delay, jitter } if jitter.is_zero() => write!(f, " delay {delay:?}"),
            Effect::Delay { delay, jitter } => {
                write!(f, " delay {delay:?} to {:?}", delay + jitter)
            }
            Effect::Partition => f.write_str(" partition"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_networks_impairment_meets_a_frame_once() {
        let spec = LabSpec::new("t", 2, "dts");
        let ports = combine(
            &spec,
            &[Impairment::of_network(Network::Front, Effect::Loss(0.01))],
        );
        assert_eq!(ports.len(), 3, "client and two nodes");
        for (to, from) in ports.values() {
            assert_eq!((to.rates.loss, from.rates.loss), (0.01, 0.0));
        }
        let rules = nft::rules(&spec, &ports);
        assert_eq!(rules.matches("< 10000 counter drop").count(), 3);
        assert!(!rules.contains("ingress"));
    }

    #[test]
    fn impairments_of_one_port_add_up() {
        let spec = LabSpec::new("t", 2, "dts");
        let n1 = |effect| Impairment::of_place(Network::Back, Place::Node(1), effect);
        let delay = |ms| Effect::Delay {
            delay: Duration::from_millis(ms),
            jitter: Duration::ZERO,
        };
        let ports = combine(
            &spec,
            &[
                n1(Effect::Loss(0.5)).one_way(Direction::From),
                Impairment::of_network(Network::Back, Effect::Loss(0.5)),
                n1(delay(5)),
                Impairment::of_network(Network::Back, delay(2)),
            ],
        );
        let (to, from) = ports[&(Network::Back, Place::Node(1))];
        assert_eq!((to.rates.loss, from.rates.loss), (0.5, 0.5));
        assert_eq!(to.shape.delay, Duration::from_millis(7));
        assert_eq!(from.shape.delay, Duration::from_millis(5));
    }

    #[test]
    fn a_places_duplicates_are_made_where_others_receive() {
        let spec = LabSpec::new("t", 2, "dts");
        let one = Impairment::of_place(Network::Back, Place::Node(1), Effect::Duplicate(0.25))
            .one_way(Direction::From);
        let rules = nft::rules(&spec, &combine(&spec, &[one]));
        assert_eq!(rules.matches("dup to").count(), 1, "{rules}");
        let rule = "ether saddr 02:00:c6:12:01:0b numgen random mod 1000000 < 250000 \
                    counter dup to \"n2b\"";
        assert!(rules.contains(rule), "{rules}");
    }

    #[test]
    fn delay_lines_are_put_in_and_taken_out() {
        let spec = LabSpec::new("t", 1, "dts");
        let line = Line {
            place_side: "n1b".into(),
            bridge_side: "n1bx".into(),
            to_place: Shape::default(),
            from_place: Shape::default(),
        };
        let lines = std::slice::from_ref(&line);
        assert!(rewire(&spec, &[], lines).contains("link set dev n1bd master back up"));
        assert!(
            rewire(&spec, lines, &[]).contains("link del dev n1bd\nlink set dev n1b master back")
        );
        assert_eq!(rewire(&spec, lines, lines), "");
    }
}
