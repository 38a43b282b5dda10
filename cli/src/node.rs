//! `dts node` and `dts detach`.

use std::env;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use anyhow::Context as _;
use dts_node::config::Config;
use dts_node::daemon;
use dts_node::kernel::host::require_privileges;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::{LogFilter, NodeArgs};

/// Runs the daemon until a signal ends it.
pub(crate) fn run(args: NodeArgs) -> anyhow::Result<()> {
    require_privileges()?;
    log_to_stderr(args.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let options = daemon::Options {
        attach: args.attach,
        ..daemon::Options::default()
    };
    runtime.block_on(daemon::run(args.config.config, options))?;
    Ok(())
}

/// Removes what the daemon left.
pub(crate) fn detach(config: &Path) -> anyhow::Result<()> {
    require_privileges()?;
    log_to_stderr(LogFilter::warnings());
    let (config, _) = Config::load(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")?;
    runtime.block_on(daemon::detach(&config))?;
    Ok(())
}

fn log_to_stderr(LogFilter(filter): LogFilter) {
    let colours =
        io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colours)
        .with_target(false);
    // systemd's journal has its own clock.
    let lines = match env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().with_filter(filter).boxed(),
        None => lines.with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(lines).init();
}
