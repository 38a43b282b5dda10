//! The command line of labs: `dts lab ...`, to be embedded in a program with clap.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use crate::delay_line;
use crate::guard::{LabGuard, remove_on_signals};
use crate::impair::{Direction, Effect, Impairment};
use crate::lab::{Lab, down, list};
use crate::place::{Family, Network, Place};
use crate::spec::{LabSpec, ServerKind, VIP, VIP_V6};

/// The lab that a command is about when it names none.
const DEFAULT_NAME: &str = "lab";

/// A cluster on this machine, in network namespaces.
#[derive(Debug, Args)]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Make a lab; it stays until `dts lab down`.
    Up(UpArgs),
    /// Run a program in a node (n1, n2, ...), a client (client, client2, ...) or the hub.
    Exec {
        /// Which lab.
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// Where: n1, n2, ..., client, hub.
        place: Place,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Remove a lab, or what a crash left of it.
    Down {
        /// Which lab.
        #[arg(default_value = DEFAULT_NAME)]
        name: String,
        /// Every lab on this machine.
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Show the labs there are.
    List,
    /// Change what is wrong with a lab's networks.
    Impair {
        /// Which lab.
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// Forget the impairments so far.
        #[arg(long)]
        clear: bool,
        #[command(flatten)]
        impairments: ImpairmentArgs,
    },
    /// Take an interface down or up.
    Link {
        /// Which lab.
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// Whose: n1, n2, ..., client.
        place: Place,
        /// front or back.
        network: Network,
        /// down or up.
        #[arg(value_parser = ["down", "up"])]
        state: String,
    },
    /// Delay and reorder frames; the lab starts this itself.
    #[command(hide = true)]
    DelayLine {
        /// What to join, and how.
        config: PathBuf,
    },
}

#[derive(Debug, Args)]
struct UpArgs {
    /// Number of nodes, 1 to 16.
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// The lab's name: lower-case letters and digits.
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// Number of client namespaces.
    #[arg(long, default_value_t = 1)]
    clients: u8,
    /// Further addresses of each client (198.18.2.1 and so on).
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    extra_addresses: u8,
    /// Cores that each node may use, such as 0.1.
    #[arg(long, value_name = "CORES")]
    cpu: Option<f32>,
    /// MiB of memory that each node may use, page cache included.
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// MTU of the front network.
    #[arg(long, default_value_t = 1500, value_name = "BYTES")]
    front_mtu: u16,
    /// MTU of the back network.
    #[arg(long, default_value_t = 1500, value_name = "BYTES")]
    back_mtu: u16,
    /// IPv6 as well: addresses for everybody (2001:db8::11 is n1), and the VIP 2001:db8::100.
    #[arg(long)]
    ipv6: bool,
    /// The same, and the nodes speak IPv6 with each other.
    #[arg(long)]
    ipv6_back: bool,
    /// Have nginx close each connection after one response.
    #[arg(long)]
    no_keepalive: bool,
    /// Start no servers.
    #[arg(long)]
    no_server: bool,
    /// Start no DTS daemons; their configuration files are written all the same.
    #[arg(long)]
    no_daemon: bool,
    /// File with the `[[service]]` tables of the nodes' configuration.
    #[arg(long, value_name = "SERVICES.TOML")]
    config: Option<PathBuf>,
    #[command(flatten)]
    impairments: ImpairmentArgs,
}

/// What is wrong with the networks. WHERE is `front` or `back`, or one place's connection to it,
/// as in `back.n1`, or that one way: `back.n1.to`, `back.n1.from`.
#[derive(Debug, Args)]
struct ImpairmentArgs {
    /// Lose frames: front=1%.
    #[arg(long, value_name = "WHERE=RATE")]
    loss: Vec<Setting<Rate>>,
    /// Deliver frames twice: front=1%.
    #[arg(long, alias = "dup", value_name = "WHERE=RATE")]
    duplicate: Vec<Setting<Rate>>,
    /// Have frames overtaken by later ones: back=1%.
    #[arg(long, value_name = "WHERE=RATE")]
    reorder: Vec<Setting<Rate>>,
    /// Deliver later, or between two times later: back=20ms, back=20ms..30ms.
    #[arg(long, value_name = "WHERE=TIME")]
    delay: Vec<Setting<Delay>>,
    /// Cut off: back.n1.
    #[arg(long, value_name = "WHERE")]
    partition: Vec<Wire>,
}

/// Does what the command line says. `dts_exe` is the program that runs daemons (`node`) and delay
/// lines (`lab delay-line`); usually the running one.
pub fn run(args: LabArgs, dts_exe: PathBuf) -> anyhow::Result<()> {
    match args.command {
        LabCommand::Up(args) => up(args, dts_exe),
        LabCommand::Exec {
            name,
            place,
            command,
        } => exec(&name, place, &command),
        LabCommand::Down { name, all: false } => Ok(down(&name)?),
        LabCommand::Down { all: true, .. } => down_all(),
        LabCommand::List => {
            show_list();
            Ok(())
        }
        LabCommand::Impair {
            name,
            clear,
            impairments,
        } => impair(&name, clear, &impairments),
        LabCommand::Link {
            name,
            place,
            network,
            state,
        } => Ok(Lab::open(&name)?.set_link(place, network, state == "up")?),
        LabCommand::DelayLine { config } => Ok(delay_line::run(&config)?),
    }
}

fn up(args: UpArgs, dts_exe: PathBuf) -> anyhow::Result<()> {
    let mut spec = LabSpec::new(args.name, args.nodes, dts_exe);
    for node in &mut spec.nodes {
        node.cpu_quota = args.cpu;
        node.memory_limit = args.memory.map(|mib| mib << 20);
    }
    spec.clients = args.clients;
    spec.client_extra_addresses = args.extra_addresses;
    spec.front_mtu = args.front_mtu;
    spec.back_mtu = args.back_mtu;
    if args.ipv6_back {
        spec = spec.with_ipv6(Family::V6);
    } else if args.ipv6 {
        spec = spec.with_ipv6(Family::V4);
    }
    spec.keepalive = !args.no_keepalive;
    spec.cluster.daemons = !args.no_daemon;
    if args.no_server {
        spec.server = ServerKind::None;
    }
    if let Some(path) = args.config {
        let toml = fs::read_to_string(&path);
        spec.cluster.services_toml = Some(
            toml.with_context(|| format!("cannot read the services from {}", path.display()))?,
        );
    }
    spec.impairments = args.impairments.all();

    remove_on_signals()?;
    let lab = LabGuard::up(spec)?;
    let name = &lab.spec().name;
    println!(
        "Lab `{name}` is up; its files are in {}.",
        lab.dir().display()
    );
    if lab.spec().cluster.daemons {
        println!("Try:  dts lab exec --name {name} client -- curl -si http://{VIP}/whoami");
        if lab.spec().ipv6 {
            println!(
                "      dts lab exec --name {name} client -- curl -si http://[{VIP_V6}]/whoami"
            );
        }
    } else {
        println!("Try:  dts lab exec --name {name} client -- curl -si http://198.18.0.11/whoami");
    }
    println!("End:  dts lab down {name}");
    lab.keep();
    Ok(())
}

fn exec(name: &str, place: Place, words: &[std::ffi::OsString]) -> anyhow::Result<()> {
    let [program, arguments @ ..] = words else {
        bail!("which program? Write it after `--`")
    };
    let mut command = Command::new(program);
    Lab::open(name)?
        .become_program(place, command.args(arguments))
        .map(|never| match never {})?;
    Ok(())
}

fn down_all() -> anyhow::Result<()> {
    // One that resists does not protect the others.
    let failures: Vec<String> = list()
        .iter()
        .filter_map(|lab| down(&lab.name).err())
        .map(|error| error.to_string())
        .collect();
    match failures.is_empty() {
        true => Ok(()),
        false => bail!("{}", failures.join("\n")),
    }
}

fn show_list() {
    for lab in list() {
        match lab.nodes {
            Some(nodes) => println!("{:16} {nodes} nodes, {} processes", lab.name, lab.processes),
            None => println!("{0:16} incomplete; `dts lab down {0}` removes it", lab.name),
        }
    }
}

fn impair(name: &str, clear: bool, impairments: &ImpairmentArgs) -> anyhow::Result<()> {
    let lab = Lab::open(name)?;
    if clear {
        lab.clear_impairments()?;
    }
    for impairment in impairments.all() {
        lab.impair(&impairment)?;
    }
    for impairment in lab.impairments()? {
        println!("{impairment}");
    }
    Ok(())
}

impl ImpairmentArgs {
    fn all(&self) -> Vec<Impairment> {
        let rates = |settings: &[Setting<Rate>], effect: fn(f64) -> Effect| {
            settings
                .iter()
                .map(|set| set.wire.with(effect(set.value.0)))
                .collect::<Vec<_>>()
        };
        let delay = |set: &Setting<Delay>| {
            set.wire.with(Effect::Delay {
                delay: set.value.delay,
                jitter: set.value.jitter,
            })
        };
        let mut all = rates(&self.loss, Effect::Loss);
        all.extend(rates(&self.duplicate, Effect::Duplicate));
        all.extend(rates(&self.reorder, Effect::Reorder));
        all.extend(self.delay.iter().map(delay));
        all.extend(
            self.partition
                .iter()
                .map(|wire| wire.with(Effect::Partition)),
        );
        all
    }
}

/// `WHERE`: a network, or a place's connection to it, or one way of that.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Wire {
    network: Network,
    place: Option<Place>,
    direction: Direction,
}

/// `WHERE=VALUE`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Setting<T> {
    wire: Wire,
    value: T,
}

/// `1%`, as 0.01.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate(f64);

/// `20ms` or `20ms..30ms`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Delay {
    delay: Duration,
    jitter: Duration,
}

impl Wire {
    fn with(self, effect: Effect) -> Impairment {
        let Self {
            network,
            place,
            direction,
        } = self;
        Impairment {
            network,
            place,
            direction,
            effect,
        }
    }
}

impl FromStr for Wire {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.');
        let network = parts.next().unwrap_or_default().parse()?;
        let place = parts.next().map(str::parse).transpose()?;
        let direction = match parts.next() {
            None => Direction::Both,
            Some("to") => Direction::To,
            Some("from") => Direction::From,
            Some(other) => return Err(format!("`{other}` is no direction; write to or from")),
        };
        match parts.next() {
            None => Ok(Self {
                network,
                place,
                direction,
            }),
            Some(_) => Err(format!(
                "`{text}` has too many parts; write as in back.n1.to"
            )),
        }
    }
}

impl<T: FromStr<Err = String>> FromStr for Setting<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (wire, value) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` lacks a value; write as in front=..."))?;
        Ok(Self {
            wire: wire.parse()?,
            value: value.parse()?,
        })
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text
            .strip_suffix('%')
            .and_then(|number| number.parse::<f64>().ok());
        match percent {
            Some(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(percent / 100.0)),
            _ => Err(format!("`{text}` is no rate; write 0% to 100%")),
        }
    }
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let (delay, most) = (parse_time(least)?, parse_time(most)?);
        match most.checked_sub(delay) {
            Some(jitter) => Ok(Self { delay, jitter }),
            None => Err(format!("`{text}` ends before it begins")),
        }
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    // Longer suffixes first: "ms" ends in "s", too.
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    units
        .iter()
        .find_map(|(unit, seconds)| {
            let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
            Duration::try_from_secs_f64(number * seconds).ok()
        })
        .ok_or_else(|| format!("`{text}` is no time; write as in 20ms, 500us, 1s"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        lab: LabArgs,
    }

    fn parse(line: &str) -> Result<LabCommand, String> {
        let words = std::iter::once("lab").chain(line.split(' '));
        Program::try_parse_from(words)
            .map(|program| program.lab.command)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Program::command().debug_assert();
    }

    #[test]
    fn impairments_are_read() {
        let line = "up --nodes 3 --loss front=1% --dup back.n1=0.5% \
                    --delay back.n2.from=20ms..30ms --partition front.n3";
        let Ok(LabCommand::Up(args)) = parse(line) else {
            panic!("{:?}", parse(line))
        };
        let all = args.impairments.all();
        let texts: Vec<String> = all.iter().map(Impairment::to_string).collect();
        assert_eq!(
            texts,
            [
                "front loss 1%",
                "back.n1 duplication 0.5%",
                "back.n2.from delay 20ms to 30ms",
                "front.n3 partition"
            ]
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("up --loss front", "lacks a value"),
            ("up --loss side=1%", "front or back"),
            ("up --loss front=1", "write 0% to 100%"),
            ("up --loss front.n1.up=1%", "write to or from"),
            ("up --delay front=20", "is no time"),
            ("up --delay front=20ms..10ms", "ends before it begins"),
            ("exec nine -- true", "no place"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
