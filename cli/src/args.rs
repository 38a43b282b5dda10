//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};
use dts_node::admin::{ConnectionFilter, Lookup, Role, State, TraceQuery};
use dts_node::config::DEFAULT_PATH;
use dts_node::kernel::AttachMode;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::demo::DemoArgs;

/// Where the version and the revision are shown.
const VERSION: &str = match env!("DTS_REVISION").len() {
    0 => env!("CARGO_PKG_VERSION"),
    _ => concat!(env!("CARGO_PKG_VERSION"), " (", env!("DTS_REVISION"), ")"),
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the reason is on standard error
  2  the command line makes no sense
  3  no daemon answers (status, ring, connections, stats, reload, trace)";

/// Distributed TCP Splicing: several servers behind one address, without a load balancer
#[derive(Debug, Parser)]
#[command(name = "dts", version = VERSION, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run this node's daemon.
    ///
    /// SIGHUP has it read its configuration again, as `dts reload` does. SIGTERM and SIGINT end it;
    /// its connections live on in the kernel until `dts detach`.
    Node(Box<NodeArgs>),
    /// Remove from the kernel what the daemon left there: programs, maps, addresses, settings.
    ///
    /// Connections that were handed over end with it.
    Detach(ConfigArgs),
    /// Check a configuration file. Warnings don't make it fail.
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Print the findings as JSON, to standard output.
        #[arg(long)]
        json: bool,
    },
    /// Make a secret for a cluster: 32 random bytes, as 64 hexadecimal digits.
    Secret {
        /// Write it to a new file that only this user can read, not to standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show how the daemon and its node are.
    Status(DaemonArgs),
    /// Show the ring, and who owns what on it.
    Ring(RingArgs),
    /// Show the connections that this node inspects or processes.
    Connections(ConnectionsArgs),
    /// Show what the filter and the inspector have counted.
    Stats {
        #[command(flatten)]
        daemon: DaemonArgs,
        /// Show counters that are 0, too. JSON always has them.
        #[arg(long)]
        all: bool,
    },
    /// Have the daemon read its configuration again. When it is wrong, nothing changes.
    Reload(DaemonArgs),
    /// Show live what the packet filter does with each segment, as a ladder.
    ///
    /// Ends with Ctrl-C. Shown is what this node has part in: which segment, from whom to whom, the verdict and what was
    /// rewritten. x and y are the initial sequence numbers of the client and of the node that answered it.
    Trace(TraceArgs),
    /// Make clusters on this machine, in network namespaces.
    Lab(dts_lab::cli::LabArgs),
    /// Show a cluster at work: a lab, some traffic, and what became of it.
    Demo(DemoArgs),
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages.
    Man {
        /// Where to; the directory must exist.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The node's configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// What to log, to standard error: a level, or levels by module as in `warn,dts_node=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log: LogFilter,
    /// How to attach the packet filter: `tcx` (Linux 6.6) or `clsact`. By default the better one that
    /// this kernel has.
    #[arg(long, value_name = "WAY")]
    pub(crate) attach: Option<AttachMode>,
}

/// Which daemon is asked, and how its answer is shown.
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// The configuration file of the daemon's node.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(crate) config: PathBuf,
    /// The daemon's socket, without a look at the configuration.
    #[arg(long, value_name = "SOCKET", conflicts_with = "config")]
    pub(crate) socket: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RingArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
    /// Show all points.
    #[arg(long)]
    pub(crate) points: bool,
    /// Tell who inspects a connection from this client address and port.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "key")]
    flow: Option<SocketAddr>,
    /// Tell whom a request target, such as /index.html, belongs to with `hash = "uri"`.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl RingArgs {
    /// Whose owner is wanted.
    pub(crate) fn lookup(&self) -> Option<Lookup> {
        let key = self.key.clone().map(Lookup::Key);
        self.flow.map(Lookup::Flow).or(key)
    }
}

#[derive(Debug, Args)]
pub(crate) struct ConnectionsArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
    /// Only those to the service of this name.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only those from this client.
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Only those in which this node has this part.
    #[arg(long)]
    role: Option<RoleArg>,
    /// Only those in this state.
    #[arg(long)]
    state: Option<StateArg>,
    /// Not more than this many.
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

impl ConnectionsArgs {
    pub(crate) fn filter(&self) -> ConnectionFilter {
        ConnectionFilter {
            service: self.service.clone(),
            remote: self.client,
            role: self.role.map(|RoleArg(role)| role),
            state: self.state.map(|StateArg(state)| state),
            limit: self.limit,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
    /// All nodes of this lab, in one ladder.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["config", "socket"])]
    pub(crate) lab: Option<String>,
    /// Only connections from this client: an address, or an address and port.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    client: Option<ClientArg>,
    /// Only connections to the service of this name.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only segments that the node of this name sends or gets.
    #[arg(long, value_name = "ID")]
    pub(crate) node: Option<String>,
    /// End after so many segments.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: Option<u64>,
    /// Show also what is dropped because another node has the connection, and second passes of a packet.
    #[arg(long)]
    all: bool,
}

impl TraceArgs {
    pub(crate) fn query(&self) -> TraceQuery {
        TraceQuery {
            client: self.client.map(|client| client.address),
            client_port: self.client.and_then(|client| client.port),
            service: self.service.clone(),
            all: self.all,
        }
    }
}

/// A client on a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClientArg {
    address: IpAddr,
    port: Option<u16>,
}

impl FromStr for ClientArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self {
                address,
                port: None,
            });
        }
        match text.parse::<SocketAddr>() {
            Ok(end) if end.port() != 0 => Ok(Self {
                address: end.ip(),
                port: Some(end.port()),
            }),
            _ => Err("write an address, or an address and port as in 198.18.0.1:4000 or [2001:db8::1]:4000".to_owned()),
        }
    }
}

/// [`Role`] on a command line.
#[derive(Clone, Copy, Debug)]
struct RoleArg(Role);

impl ValueEnum for RoleArg {
    fn value_variants<'a>() -> &'a [Self] {
        &const { [Self(Role::ALL[0]), Self(Role::ALL[1])] }
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

/// [`State`] on a command line.
#[derive(Clone, Copy, Debug)]
struct StateArg(State);

impl ValueEnum for StateArg {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self(State::Inspect),
            Self(State::Frozen),
            Self(State::Placed),
            Self(State::Handing),
            Self(State::Direct),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

/// What is logged.
#[derive(Clone, Debug)]
pub(crate) struct LogFilter(pub(crate) Targets);

impl LogFilter {
    /// Warnings and errors.
    pub(crate) fn warnings() -> Self {
        Self(Targets::new().with_default(LevelFilter::WARN))
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = "write off, error, warn, info, debug or trace, or levels by module as in warn,dts_node=debug";
        // A word alone could be a module, too; more often it is a level with a typing error.
        let words = text.split(',').filter(|part| !part.contains('='));
        for word in words {
            if word.is_empty() || word.parse::<LevelFilter>().is_err() {
                return Err(format!("`{word}` is no level; {help}"));
            }
        }
        text.parse().map(Self).map_err(|_| help.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        Cli::try_parse_from(line.split(' '))
            .map(|cli| cli.command)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_says_what_it_is_for() {
        fn check(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{name} {}",
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            (
                "dts node --log loud",
                "`loud` is no level; write off, error",
            ),
            ("dts status --socket a --config b", "cannot be used with"),
            ("dts ring --flow 198.18.0.1", "invalid socket address"),
            (
                "dts ring --flow 198.18.0.1:1 --key a",
                "cannot be used with",
            ),
            (
                "dts connections --state gone",
                "inspect, frozen, placed, handing, direct",
            ),
            ("dts connections --role both", "inspecting, processing"),
            ("dts demo --nodes 17", "17"),
            ("dts trace --client here", "write an address, or"),
            ("dts trace --client 198.18.0.1:0", "write an address, or"),
            ("dts trace --lab a --socket b", "cannot be used with"),
            ("dts trace --count 0", "0"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn filters_become_questions() {
        let line = "dts connections --service web --client 198.18.0.9 --role processing --state direct --limit 5";
        let Ok(Command::Connections(args)) = parse(line) else {
            panic!("{:?}", parse(line))
        };
        let expected = ConnectionFilter {
            service: Some("web".to_owned()),
            remote: Some("198.18.0.9".parse().unwrap()),
            role: Some(Role::Processing),
            state: Some(State::Direct),
            limit: Some(5),
        };
        assert_eq!(args.filter(), expected);
        for (client, address, port) in [
            ("198.18.0.1", "198.18.0.1", None),
            ("198.18.0.1:4000", "198.18.0.1", Some(4000)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]:4000", "2001:db8::1", Some(4000)),
        ] {
            let line = format!("dts trace --service web --all --client {client}");
            let Ok(Command::Trace(args)) = parse(&line) else {
                panic!("{:?}", parse(&line))
            };
            let expected = TraceQuery {
                client: Some(address.parse().unwrap()),
                client_port: port,
                service: Some("web".to_owned()),
                all: true,
            };
            assert_eq!(args.query(), expected);
        }
        let Ok(Command::Ring(args)) = parse("dts ring --flow 198.18.0.1:4000") else {
            panic!("no ring")
        };
        let flow = Lookup::Flow("198.18.0.1:4000".parse().unwrap());
        assert_eq!(args.lookup(), Some(flow));
    }

    #[test]
    fn a_log_filter_is_a_level_or_levels_by_module() {
        for good in [
            "off",
            "info",
            "WARN",
            "warn,dts_node=debug",
            "dts_node::admin=trace",
        ] {
            assert!(good.parse::<LogFilter>().is_ok(), "{good}");
        }
        for bad in ["", "dts_node", "warn,", "dts_node=loud"] {
            assert!(bad.parse::<LogFilter>().is_err(), "{bad}");
        }
    }
}
