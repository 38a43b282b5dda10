//! The paper's Figs. 6 and 7 (§4.2): connections per second as nodes grow, with a single inspecting node and with all nodes
//! inspecting.
//!
//! Every node has the same small share of a processor, so that eight of them, the client and the network fit into one
//! machine. What a run of a given number of nodes needs of it is measured beside: how much of their share the nodes
//! used, how busy the client's thread and the whole machine were.

mod machine;
mod report;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use dts_lab::{LabGuard, LabSpec, Place, ServerKind, VIP};

use crate::echo;
use crate::generator::{self, Exchange, Seen, Workload};
use crate::progress::Progress;
use crate::run::Run;
use machine::{Machine, Used};

/// Microseconds for which network cards collect received frames, as many did in the paper's time, and do. A node with a part of
/// a core is a node with a core that is as many times slower, and so is its card: or the waking of the receive path
/// for each single frame would be most of what is measured.
const RX_USECS: f64 = 20.0;

/// The service's port.
const PORT: u16 = 7000;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Numbers of nodes, each from 1 to 16.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    nodes: Vec<u8>,
    /// How often each cluster is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeats: u32,
    /// Seconds that count in each measurement.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// The part of a core that each node may use.
    #[arg(long, default_value_t = 0.1)]
    cpu: f32,
    /// Connections that the client keeps busy.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// How connections are handed over; both if not given.
    #[arg(long, value_parser = ["adopt", "splice"])]
    handover: Option<String>,
}

/// Who inspects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inspectors {
    Single,
    Multiple,
}

impl Inspectors {
    fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Multiple => "multiple",
        }
    }
}

/// A cluster that is to be measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) handover: String,
    pub(crate) inspectors: Inspectors,
    pub(crate) nodes: u8,
}

/// What was seen of a cluster.
#[derive(Clone, Debug)]
struct Measured {
    setting: Setting,
    /// Connections per second.
    rate: f64,
    failed: u64,
    /// Why they failed, and how many, as `reset 2 timeout 5`.
    reasons: String,
    /// The 50th and 99th percentile, in milliseconds, from a connection's beginning to its echo.
    latency: (f64, f64),
    /// What part of its share each node used, `n1` first.
    nodes: Vec<f64>,
    /// What part of a core the client's thread used.
    client: f64,
    /// What part of the machine was idle.
    idle: f64,
}

pub(crate) fn run(
    name: &'static str,
    bytes: u16,
    options: &Options,
    run: &Run,
) -> anyhow::Result<()> {
    ensure!(
        options.nodes.iter().all(|n| (1..=16).contains(n)) && !options.nodes.is_empty(),
        "numbers of nodes are from 1 to 16"
    );
    ensure!(
        (0.01..=1.0).contains(&options.cpu),
        "a node has from 0.01 to 1 core"
    );
    let nodes: Vec<u8> = if run.quick {
        vec![1, 8]
    } else {
        options.nodes.clone()
    };
    let (repeats, seconds) = if run.quick {
        (1, 2)
    } else {
        (options.repeats, options.seconds)
    };
    let mut settings = Vec::new();
    for nodes in &nodes {
        for handover in ["adopt", "splice"] {
            for inspectors in [Inspectors::Single, Inspectors::Multiple] {
                if options.handover.as_deref().is_none_or(|h| h == handover) {
                    settings.push(Setting {
                        handover: handover.to_owned(),
                        inspectors,
                        nodes: *nodes,
                    });
                }
            }
        }
    }
    let report = report::begin(name, bytes, options, seconds);
    let progress = Progress::new(name, settings.len() * repeats as usize);
    let mut all = Vec::new();
    for number in 1..=repeats {
        for setting in &settings {
            progress.begin(format!(
                "round {number} of {repeats}: {} nodes, {}, {} inspector",
                setting.nodes,
                setting.handover,
                setting.inspectors.name()
            ));
            let measured = measure(setting, bytes, seconds, options, run)
                .with_context(|| format!("{setting:?}"))?;
            all.push(measured);
            progress.done();
        }
    }
    drop(progress);
    report::finish(report, name, bytes, &all, run)
}

/// Builds a cluster, loads it, and removes it.
fn measure(
    setting: &Setting,
    bytes: u16,
    seconds: u32,
    options: &Options,
    run: &Run,
) -> anyhow::Result<Measured> {
    let single = setting.inspectors == Inspectors::Single;
    let lab = cluster(setting, bytes, options.cpu, run, |spec| {
        for (number, node) in spec.nodes.iter_mut().enumerate() {
            node.inspect = Some(number == 0 || !single);
        }
    })?;
    let workload = workload(bytes, seconds, options.connections);
    let (seen, used) = load(&lab, &workload)?;
    let share = f64::from(options.cpu);
    Ok(Measured {
        setting: setting.clone(),
        rate: seen.rate(),
        failed: seen.failures(),
        reasons: seen.reasons(),
        latency: (
            seen.latency.value_at_quantile(0.5) as f64 / 1000.0,
            seen.latency.value_at_quantile(0.99) as f64 / 1000.0,
        ),
        nodes: used.nodes.iter().map(|cores| cores / share).collect(),
        client: seen.cpu.as_secs_f64() / seen.time.as_secs_f64(),
        idle: used.idle,
    })
}

/// A lab with the echo server on each node, each node having so many cores.
pub(crate) fn cluster(
    setting: &Setting,
    bytes: u16,
    cores: f32,
    run: &Run,
    change: impl FnOnce(&mut LabSpec),
) -> anyhow::Result<LabGuard> {
    let rx_usecs = (RX_USECS / f64::from(cores)) as u32;
    let mut spec = LabSpec::new("scaling", setting.nodes, &run.dts);
    spec.server = ServerKind::None;
    spec.client_extra_addresses = 254;
    spec.cluster.services_toml = Some(service(setting, bytes));
    for node in &mut spec.nodes {
        node.cpu_quota = Some(cores);
        node.rx_usecs = rx_usecs;
    }
    change(&mut spec);
    let lab = LabGuard::up(spec)?;
    for place in lab.spec().node_places() {
        echo::start(&lab, place, PORT, bytes)?;
    }
    Ok(lab)
}

/// As many connections as the cluster carries, from many addresses.
pub(crate) fn workload(bytes: u16, seconds: u32, connections: u32) -> Workload {
    Workload {
        server: SocketAddrV4::new(VIP, PORT),
        sources: (1..=254).map(|i| Ipv4Addr::new(198, 18, 2, i)).collect(),
        connections: connections as usize,
        rate: None,
        warm_up: Duration::from_secs(1),
        duration: Duration::from_secs(seconds.into()),
        per_connection: 1,
        exchange: Exchange::Echo(bytes.into()),
    }
}

/// Runs the load from the client, and watches the machine meanwhile.
pub(crate) fn load(lab: &LabGuard, workload: &Workload) -> anyhow::Result<(Seen, Used)> {
    let places: Vec<Place> = lab.spec().node_places().collect();
    let machine = Machine::watch(lab, &places, workload.warm_up, workload.duration);
    let seen = lab.within(Place::Client(1), || generator::run(workload))??;
    let used = machine.seen()?;
    ensure!(
        seen.answered > 0,
        "no connection was answered; failed: {:?}",
        seen.failed
    );
    Ok((seen, used))
}

/// Every node is a target, the inspecting one included.
fn service(setting: &Setting, bytes: u16) -> String {
    let nodes: Vec<String> = (1..=setting.nodes).map(|n| format!("\"n{n}\"")).collect();
    format!(
        "[[service]]\nname = \"echo\"\nvip = \"{VIP}\"\nport = {PORT}\nmode = \"l7\"\n\
         handover = \"{}\"\ninspector_port = 8081\nprotocol = {{ bytes = {bytes} }}\n\
         default = {{ nodes = [{}] }}\n",
        setting.handover,
        nodes.join(", ")
    )
}
