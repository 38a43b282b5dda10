//! The commands that ask the daemon.

use anyhow::Context as _;
use dts_node::admin::{Client, RingQuery};
use dts_node::config::Config;
use serde::Serialize;

use crate::args::{ConnectionsArgs, DaemonArgs, RingArgs};
use crate::render;

pub(crate) fn status(daemon: &DaemonArgs) -> anyhow::Result<()> {
    let view = client(daemon)?.status()?;
    show(daemon, &view, render::status)
}

pub(crate) fn ring(args: &RingArgs) -> anyhow::Result<()> {
    let query = RingQuery {
        points: args.points,
        lookup: args.lookup(),
    };
    let view = client(&args.daemon)?.ring(query)?;
    show(&args.daemon, &view, render::ring)
}

pub(crate) fn connections(args: &ConnectionsArgs) -> anyhow::Result<()> {
    let view = client(&args.daemon)?.connections(args.filter())?;
    show(&args.daemon, &view, render::connections)
}

pub(crate) fn stats(daemon: &DaemonArgs, all: bool) -> anyhow::Result<()> {
    let view = client(daemon)?.stats()?;
    show(daemon, &view, |view| render::stats(view, all))
}

pub(crate) fn reload(daemon: &DaemonArgs) -> anyhow::Result<()> {
    let report = client(daemon)?.reload()?;
    show(daemon, &report, render::reload)
}

/// A connection to the daemon that is asked.
pub(crate) fn client(args: &DaemonArgs) -> anyhow::Result<Client> {
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => {
            let (config, _) = Config::load(&args.config).context(
                "cannot tell where the daemon's socket is: name it with --socket, or its \
                 configuration with --config",
            )?;
            config.socket_path()
        }
    };
    Ok(Client::connect(&socket)?)
}

fn show<T: Serialize>(
    args: &DaemonArgs,
    view: &T,
    render: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    if args.json {
        render::print_json(view)
    } else {
        render::print(&render(view))
    }
}
