//! The paper's web application benchmark (section 4.4, Tables 3 and 4): SPECweb2005's "Support" workload on four nodes, by
//! layer 4 alone, and with the algorithm of Fig. 9, spliced and adopted. One run answers both tables.

mod connection;
mod engine;
mod measure;
mod model;
mod qos;
mod report;
mod scale;
mod servers;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use dts_lab::{DiskSpec, Lab, LabGuard, LabSpec, Place, ServerKind, VIP};
use dts_node::admin::{Client, Lookup, RingQuery};

use self::engine::{Plan, Work};
use self::measure::Outcome;
use self::model::{Download, Model};
use self::scale::Scale;
use crate::progress::Progress;
use crate::run::{Report, Run};

pub(super) const NODES: u8 = 4;
const LAB: &str = "support";
/// Points of each node on the ring, as in the paper.
const VIRTUAL_NODES: u16 = 63;
/// Addresses of the clients.
const ADDRESSES: u8 = 200;
/// Downloads that fill the caches, at a time.
const FILLING: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What sizes, rates, memory and disks are divided by.
    #[arg(long, default_value_t = 32)]
    factor: u64,
    /// Simultaneous users; with fewer than the paper's 1800, there are fewer files, and smaller nodes. Two cores carry 1200.
    #[arg(long, default_value_t = 1200)]
    sessions: u32,
    /// Seconds that count (the paper's: 900).
    #[arg(long, default_value_t = 120)]
    seconds: u32,
    /// Seconds of load before.
    #[arg(long, default_value_t = 60)]
    warm_up: u32,
    /// Downloads that fill the caches before, without limits; 0 begins with empty caches.
    #[arg(long, default_value_t = 10_000)]
    fill: u32,
    /// How often all three are measured.
    #[arg(long, default_value_t = 3)]
    repeats: u32,
    /// MB/s of a node's disk, before the division.
    #[arg(long, default_value_t = 64.0)]
    disk: f64,
    /// MiB of a node's memory for nginx and page cache, before the division.
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// The ring's hash function.
    #[arg(long, value_enum, default_value_t = Hash::Md5)]
    hash: Hash,
}

/// A hash function of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Hash {
    /// The paper's.
    Md5,
    /// Keyed.
    Siphash,
}

/// A way to dispatch requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    L4,
    Splice,
    Adopt,
}

impl Method {
    pub(super) const ALL: [Method; 3] = [Method::L4, Method::Splice, Method::Adopt];

    pub(super) fn name(self) -> &'static str {
        match self {
            Method::L4 => "L4",
            Method::Splice => "L7, splice",
            Method::Adopt => "L7, adopt",
        }
    }
}

/// How large a run is.
pub(super) struct Extent {
    scale: Scale,
    seconds: Duration,
    warm_up: Duration,
    fill: u64,
    repeats: u32,
    hash: Hash,
}

impl Options {
    fn extent(&self, quick: bool) -> anyhow::Result<Extent> {
        let (factor, sessions) = if quick {
            (16, 360)
        } else {
            (self.factor, self.sessions)
        };
        let scale = Scale::new(factor, sessions, self.disk, self.memory)?;
        let (seconds, warm_up, repeats) = match quick {
            true => (8, 5, 1),
            false => (self.seconds, self.warm_up, self.repeats),
        };
        ensure!(seconds >= 1 && repeats >= 1, "at least a second, once");
        Ok(Extent {
            scale,
            seconds: Duration::from_secs(seconds.into()),
            warm_up: Duration::from_secs(warm_up.into()),
            fill: (f64::from(self.fill) * scale.share()).round() as u64,
            repeats,
            hash: self.hash,
        })
    }
}

/// Measures for both tables. `name` is the one that was asked for.
pub(crate) fn run(name: &'static str, options: &Options, run: &Run) -> anyhow::Result<()> {
    let extent = options.extent(run.quick)?;
    let model = Model::new(extent.scale.sessions)?;
    let mut report = Report::new(name);
    let steps = 2 + extent.repeats as usize * Method::ALL.len();
    let progress = Progress::new(name, steps);
    progress.begin("building the lab, and writing its files");
    let lab = LabGuard::up(lab_spec(run, &extent, &model))?;
    let places: Vec<Place> = (1..=NODES).map(Place::Node).collect();
    servers::write_files(&lab, &places, &model, &extent.scale)?;
    progress.done();
    progress.begin("starting Tomcat on each node");
    servers::start(&lab, &places, &extent.scale)?;
    report::set_up(&mut report, &extent, &model, &lab.disk_device(places[0])?);
    progress.done();
    let owners = owners(&lab, &model)?;
    let experiment = Experiment {
        lab: &lab,
        places: &places,
        model: &model,
        extent: &extent,
        owners: &owners,
    };
    let mut outcomes = Vec::new();
    for repeat in 0..extent.repeats {
        for method in Method::ALL {
            let round = format!("round {} of {}", repeat + 1, extent.repeats);
            progress.begin(format!("{round}: {}", method.name()));
            let outcome = experiment
                .measure(method, repeat)
                .with_context(|| format!("{}, {round}", method.name()))?;
            outcomes.push(outcome);
            progress.done();
        }
    }
    drop(progress);
    report::summarize(&mut report, &outcomes, &extent)?;
    report.finish(run)
}

fn lab_spec(run: &Run, extent: &Extent, model: &Model) -> LabSpec {
    let mut spec = LabSpec::new(LAB, NODES, &run.dts);
    spec.server = ServerKind::None;
    spec.client_extra_addresses = ADDRESSES;
    for node in &mut spec.nodes {
        node.disk = Some(DiskSpec {
            memory_limit: Some(extent.scale.memory()),
            read_bps: None,
        });
    }
    let hash = match extent.hash {
        Hash::Md5 => "md5",
        Hash::Siphash => "siphash",
    };
    spec.cluster.ring_toml = format!("hash = \"{hash}\"\nvirtual_nodes = {VIRTUAL_NODES}\n");
    spec.cluster.services_toml = Some(services(Method::L4, model));
    spec
}

/// The daemons' service: by layer 4, or Fig. 9's algorithm.
fn services(method: Method, model: &Model) -> String {
    let head = format!("[[service]]\nname = \"web\"\nvip = \"{VIP}\"\nport = 80\n");
    let handover = match method {
        Method::L4 => return head + "mode = \"l4\"\n",
        Method::Splice => "splice",
        Method::Adopt => "adopt",
    };
    let mut local = String::new();
    for directory in 1..=model.local_directories() {
        // Line B of Fig. 9.
        let _ = write!(local, "\"{}\", ", model::directory_uri(directory));
    }
    format!(
        "{head}mode = \"l7\"\nhandover = \"{handover}\"\ninspector_port = 8081\nprotocol = \"http\"\n\
         keep_local = [{local}]\ndefault = \"local\"\n\n\
         [[service.rule]]\npath_prefix = \"/downloads/\"\nto = {{ hash = \"uri\" }}\n"
    )
}

/// The nodes that downloads belong to, as a daemon says; those that stay where they land have none.
fn owners(lab: &Lab, model: &Model) -> anyhow::Result<HashMap<Download, u8>> {
    let mut owners = HashMap::new();
    for directory in model.local_directories() + 1..=model.directories {
        for file in Download::of(directory) {
            let query = RingQuery {
                points: false,
                lookup: Some(Lookup::Key(file.uri())),
            };
            let owner = Client::connect(&lab.daemon_socket(1))?.ring(query)?.owner;
            let owner = owner.context("the ring is empty")?;
            let Ok(Place::Node(node)) = owner.id.parse() else {
                bail!("{} belongs to {}, which is no node", file.uri(), owner.id);
            };
            owners.insert(file, node);
        }
    }
    Ok(owners)
}

/// What all measurements of a run share.
struct Experiment<'a> {
    lab: &'a Lab,
    places: &'a [Place],
    model: &'a Model,
    extent: &'a Extent,
    owners: &'a HashMap<Download, u8>,
}

impl Experiment<'_> {
    /// One method, once, beginning with empty caches.
    fn measure(&self, method: Method, repeat: u32) -> anyhow::Result<Outcome> {
        let (lab, extent) = (self.lab, self.extent);
        lab.restart_daemons(&services(method, self.model))?;
        for place in self.places {
            lab.drop_disk_cache(*place)?;
            lab.set_disk_speed(*place, None)?;
        }
        let none = HashMap::new();
        let mut plan = Plan {
            model: self.model,
            scale: extent.scale,
            addresses: addresses(),
            seed: 2 * u64::from(repeat),
            work: Work::Fill {
                downloads: extent.fill,
                at_once: FILLING,
            },
            owners: match method {
                Method::L4 => &none,
                Method::Splice | Method::Adopt => self.owners,
            },
        };
        let filled = lab.within(Place::Client(1), || engine::run(&plan, &mut |_| Ok(())))??;
        let (wrong, all) = (filled.errors.values().sum::<u64>(), extent.fill);
        ensure!(
            filled.downloads.total() == all && wrong * 20 <= all,
            "{} of {all} downloads to fill the caches ended, of which {wrong} were wrong: {:?}",
            filled.downloads.total(),
            filled.errors
        );
        let memory = measure::memory(lab, self.places)?;
        for place in self.places {
            lab.set_disk_speed(*place, Some(extent.scale.disk_speed()))?;
        }
        plan.seed += 1;
        plan.work = Work::Users {
            warm_up: extent.warm_up,
            measured: extent.seconds,
        };
        let mut outcome = measure::users(lab, self.places, &plan, method, repeat)?;
        outcome.filled = memory;
        outcome.check()?;
        Ok(outcome)
    }
}

fn addresses() -> Vec<Ipv4Addr> {
    (1..=ADDRESSES)
        .map(|host| Ipv4Addr::new(198, 18, 2, host))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_fig_9s() {
        let model = Model::new(1800).unwrap();
        let toml = services(Method::Adopt, &model);
        assert!(toml.contains("keep_local = [\"/downloads/dir0000000001/\", "));
        assert!(toml.contains("\"/downloads/dir0000000009/\", ]"));
        assert!(!toml.contains("dir0000000010"));
        assert!(toml.contains("default = \"local\"") && toml.contains("hash = \"uri\""));
        assert!(!services(Method::L4, &model).contains("rule"));
    }
}
