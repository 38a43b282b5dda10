//! The daemon: it sets the node up, keeps its lease, runs the inspector and answers questions.
//!
//! The data plane is the filter's and outlives the daemon. A daemon that starts where another one ran
//! finds programs and connections in place, and only puts itself in the old one's stead.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dts_core::entry::adoption::SEEN_SECONDS;
use dts_core::ring::RingHashSpec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::admin::{self, Claim, ClaimError};
use crate::adoption::{AdoptionCounters, AdoptionError, Adoptions, Frames};
use crate::config::{Config, ConfigError, Diagnostic, Mode, Secret, SecretError};
use crate::current::{Current, Inspectors};
use crate::handover::Handovers;
use crate::housekeeping::Housekeeper;
use crate::kernel::filter::pin_path;
use crate::kernel::host::{Applied, Host, HostError, Solicited, prepare_bpf, require_privileges};
use crate::kernel::{AttachMode, Attachment, Filter, FilterError};
use crate::placement::TooManyPoints;
use crate::processes::{SocketError, Sockets};
use crate::trace::Tracer;
use crate::worker::{self, Heartbeats, WorkerError};

mod apply;
mod lease;
mod listening;
mod methods;
mod source;
mod upkeep;

use apply::{apply_host, host_spec, refuse_restart, tell_filter};
use lease::Lease;
use methods::Methods;

/// How long a daemon that was told to end waits for the handovers it has begun.
const GRACE: Duration = Duration::from_secs(2);

/// Why the daemon could not start, or a reload could not be done.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The host lacks something, or could not be set up.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The secret can't be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Another daemon is running, or the run directory can't be used.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The filter can't be loaded, attached or told something.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// An inspector can't be started.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The inspector of adopted connections can't be started.
    #[error(transparent)]
    Adoption(#[from] AdoptionError),
    /// Inspector processes can't attach.
    #[error(transparent)]
    Processes(#[from] SocketError),
    /// The ring would be too large.
    #[error(transparent)]
    Ring(#[from] TooManyPoints),
    /// The notices' UDP port can't be used.
    #[error("cannot use UDP port {port} of {address} for notices between nodes")]
    Notices {
        /// The node's back address.
        address: IpAddr,
        /// The handover port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// A program's own inspector is for a service that is not configured, not inspected, or left to processes.
    #[error(
        "there is an inspector for service {0:?}, but no service of that name in mode l7 and \
         without `inspector = \"process\"`"
    )]
    UnknownService(String),
    /// A reload would change what only a restart can change.
    #[error("{0} cannot change while the daemon runs: restart it")]
    NeedsRestart(&'static str),
    /// The system refused something basic.
    #[error("cannot {doing}")]
    System {
        /// What.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What a program may say beyond the configuration.
#[derive(Clone, Default)]
pub struct Options {
    /// How to attach the filter; by default the better way that the kernel has.
    pub attach: Option<AttachMode>,
    /// Inspectors of the program's own, by service name.
    pub inspectors: Inspectors,
}

/// The running daemon, as the admin interface and the signals see it.
pub struct Daemon {
    config_path: PathBuf,
    hash: RingHashSpec,
    inspectors: Inspectors,
    sockets: Sockets,
    filter: Arc<Filter>,
    attachment: Attachment,
    applied: Mutex<Applied>,
    solicited: Mutex<Solicited>,
    handovers: Arc<Handovers>,
    current: watch::Sender<Arc<Current>>,
    warnings: Mutex<Vec<Diagnostic>>,
    started: Instant,
    runtime: tokio::runtime::Handle,
    /// One reload, or change of methods, at a time.
    reloading: Mutex<()>,
    methods: Mutex<Methods>,
    adoptions: Arc<AdoptionCounters>,
    tracer: Arc<Tracer>,
    secret: Secret,
}

/// Runs the node of a configuration file until SIGTERM or SIGINT.
///
/// # Errors
///
/// When the node can't be set up. What has been set up by then stays: `detach` removes it.
pub async fn run(config_path: PathBuf, options: Options) -> Result<(), DaemonError> {
    require_privileges()?;
    let (config, warnings) = Config::load(&config_path)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let secret = Secret::load(&config.cluster.secret_file)?;
    let claim = Claim::take(&config.socket_path())?;
    let frames = Frames::open()?;
    let address = config.node.address;
    allow_many_files();
    let (handover_port, lease) = (config.cluster.handover_port, config.node.lease);
    let notice_key = secret.derive("notice");

    let daemon = Arc::new(Daemon::set_up(config_path, config, warnings, secret, options).await?);
    let heartbeats = daemon.start_workers()?;
    let housekeeper = Housekeeper::new(
        Arc::clone(&daemon.filter),
        daemon.current.subscribe(),
        address,
        handover_port,
        notice_key,
    )
    .await
    .map_err(|source| DaemonError::Notices {
        address,
        port: handover_port,
        source,
    })?;
    let housekeeper = Arc::new(housekeeper);
    daemon.start_adoptions(frames, &housekeeper)?;
    tokio::spawn(housekeeper.run());
    let handovers = Arc::clone(&daemon.handovers);
    tokio::spawn(async move { handovers.tidy_for_ever().await });
    tokio::spawn(upkeep::keep_settings(Arc::clone(&daemon)));
    tokio::spawn(upkeep::keep_host(Arc::clone(&daemon)));
    tokio::spawn(methods::keep(Arc::clone(&daemon)));
    tokio::spawn(upkeep::keep_neighbours(Arc::clone(&daemon)));
    let lease = Lease::keep(Arc::clone(&daemon.filter), lease, heartbeats)?;
    let listener = claim.listen()?;
    tokio::spawn(admin::serve(listener, Arc::clone(&daemon) as _));

    let current = daemon.current();
    tracing::info!(
        node = %current.config.node.id,
        cluster = current.config.cluster.name,
        epoch = current.flows.epoch(),
        "the node is up"
    );
    // Only a service manager wants to know.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    daemon.wait_for_signals().await?;
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);

    lease.give_back();
    daemon.finish_handovers().await;
    daemon.sockets.close();
    tracing::info!("the daemon ends; connections go on, `dts detach` would end them");
    Ok(())
}

/// Raises the limit of open files to what the system allows this process: each connection that waits at the
/// inspector is one, and shells begin with 1024.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::warn!("cannot raise the limit of open files to {all:?}: {error}");
    }
}

/// Removes everything that the daemon of a configuration has left in the kernel and on the host.
///
/// # Errors
///
/// When the daemon runs, or something can't be removed.
pub async fn detach(config: &Config) -> Result<(), DaemonError> {
    require_privileges()?;
    let _claim = Claim::take(&config.socket_path())?;
    let attachment = attachment(config, None);
    Filter::detach(&attachment, &pins(config))?;
    Host::restore(&state_path(config)).await?;
    Ok(())
}

fn pins(config: &Config) -> PathBuf {
    pin_path(&config.node.pin_dir, &config.cluster.name, &config.node.id)
}

fn state_path(config: &Config) -> PathBuf {
    config.socket_path().with_extension("state.json")
}

fn attachment(config: &Config, mode: Option<AttachMode>) -> Attachment {
    Attachment {
        front: config.node.front.clone(),
        back: config.node.back.clone(),
        mode: mode.unwrap_or_else(AttachMode::detect),
    }
}

impl Daemon {
    /// Sets the host and the filter up. The programs are attached before the VIPs are there.
    async fn set_up(
        config_path: PathBuf,
        config: Config,
        warnings: Vec<Diagnostic>,
        secret: Secret,
        options: Options,
    ) -> Result<Self, DaemonError> {
        prepare_bpf(&config.node.pin_dir)?;
        let hash = RingHashSpec::from(secret.ring_hash(config.ring.hash));
        let attachment = attachment(&config, options.attach);
        let filter = Arc::new(Filter::load(&pins(&config), config.node.connections)?);
        // An earlier daemon's lease is not this one's.
        filter.set_lease(Duration::ZERO)?;
        if let Some(unknown) = unknown_service(&config, &options.inspectors) {
            return Err(DaemonError::UnknownService(unknown.to_owned()));
        }
        let sockets = Sockets::default();
        let epoch = filter.ring_epoch()? + 1;
        let current = Current::new(config, hash, epoch, &options.inspectors, &sockets)?;
        let found = Host::find(&host_spec(&current)).await?;
        filter.set_cookie_keys(&upkeep::cookie_keys(&secret))?;
        let methods = methods::choose(&current, &filter, &Methods::new())?;
        tell_filter(
            &filter,
            &current,
            Duration::ZERO,
            &found,
            secret.derive("handover tag"),
        )?;
        methods::tell(&filter, &current, &methods)?;
        filter.attach(&attachment)?;
        let applied = apply_host(&current).await?;
        let mut solicited = Solicited::default();
        be_solicited(&mut solicited, &current, &applied);
        worker::check(&current)?;
        let runtime = tokio::runtime::Handle::current();
        sockets.listen(&current, &runtime)?;

        let node = &current.config.node;
        let handovers = Handovers::new(
            Arc::clone(&filter),
            node.address,
            node.self_address,
            current.config.cluster.handover_port,
        );
        let current = watch::Sender::new(Arc::new(current));
        Ok(Self {
            config_path,
            hash,
            inspectors: options.inspectors,
            tracer: Tracer::new(Arc::clone(&filter), current.subscribe()),
            sockets,
            filter,
            attachment,
            applied: Mutex::new(applied),
            solicited: Mutex::new(solicited),
            handovers: Arc::new(handovers),
            current,
            warnings: Mutex::new(warnings),
            started: Instant::now(),
            runtime,
            reloading: Mutex::new(()),
            methods: Mutex::new(methods),
            adoptions: Arc::default(),
            secret,
        })
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.borrow())
    }

    fn start_workers(&self) -> Result<Heartbeats, DaemonError> {
        let workers = self.current().config.node.workers.max(1);
        let heartbeats = Heartbeats::new(workers);
        for number in 0..workers {
            worker::start(
                heartbeats.of(number),
                self.current.subscribe(),
                Arc::clone(&self.handovers),
            )?;
        }
        Ok(heartbeats)
    }

    fn start_adoptions(
        &self,
        frames: Frames,
        housekeeper: &Arc<Housekeeper>,
    ) -> Result<(), DaemonError> {
        if !self.filter.can_adopt() {
            return Ok(());
        }
        let applied = *locked(&self.applied);
        let adoptions = Adoptions {
            filter: Arc::clone(&self.filter),
            current: self.current.subscribe(),
            counters: Arc::clone(&self.adoptions),
            housekeeper: Arc::clone(housekeeper),
            runtime: self.runtime.clone(),
            front: applied.front_index,
            back: applied.back_index,
            frames,
        };
        Ok(adoptions.start()?)
    }

    /// Returns at SIGTERM or SIGINT; reloads at SIGHUP.
    async fn wait_for_signals(self: &Arc<Self>) -> Result<(), DaemonError> {
        let on = |kind| {
            signal(kind).map_err(|source| DaemonError::System {
                doing: "wait for signals",
                source,
            })
        };
        let mut terminate = on(SignalKind::terminate())?;
        let mut interrupt = on(SignalKind::interrupt())?;
        let mut hangup = on(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => {
                    let this = Arc::clone(self);
                    match tokio::task::spawn_blocking(move || this.reload_now()).await {
                        Ok(Ok(report)) => {
                            tracing::info!(epoch = report.ring_epoch, changes = ?report.changes, "reloaded");
                        }
                        Ok(Err(error)) => tracing::error!("not reloaded: {error}"),
                        Err(error) => tracing::error!("the reload broke off: {error}"),
                    }
                }
            }
        }
    }

    async fn finish_handovers(&self) {
        let end = Instant::now() + GRACE;
        while self.handovers.in_progress() > 0 && Instant::now() < end {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Puts a changed configuration into use. Called on a thread that may block.
    fn reload_now(&self) -> Result<admin::ReloadReport, DaemonError> {
        let _one = locked(&self.reloading);
        let (config, warnings) = Config::load(&self.config_path)?;
        let old = self.current();
        refuse_restart(&old.config, &config)?;
        if let Some(unknown) = unknown_service(&config, &self.inspectors) {
            return Err(DaemonError::UnknownService(unknown.to_owned()));
        }
        let epoch = self.filter.ring_epoch()? + 1;
        let new = Current::new(config, self.hash, epoch, &self.inspectors, &self.sockets)?;
        let changes = source::changes(&old.config, &new.config);

        let applied = self.runtime.block_on(apply_host(&new))?;
        // The rings and services first, so that no connection is accepted for what is going away.
        let tag_key = self.filter.node()?.tag_key;
        let former = Duration::from_secs(SEEN_SECONDS);
        tell_filter(&self.filter, &new, former, &applied, tag_key)?;
        {
            let mut methods = locked(&self.methods);
            *methods = methods::choose(&new, &self.filter, &methods)?;
            methods::tell(&self.filter, &new, &methods)?;
        }
        worker::check(&new)?;
        be_solicited(&mut locked(&self.solicited), &new, &applied);
        self.sockets.listen(&new, &self.runtime)?;
        *locked(&self.applied) = applied;
        let report = admin::ReloadReport {
            ring_epoch: epoch,
            changes,
            warnings: warnings.iter().map(ToString::to_string).collect(),
        };
        *locked(&self.warnings) = warnings;
        self.current.send_replace(Arc::new(new));
        Ok(report)
    }
}

/// Has the network bring neighbour solicitations for the VIPs.
fn be_solicited(solicited: &mut Solicited, current: &Current, applied: &Applied) {
    if let Err(error) = solicited.follow(applied.front_index, &current.vips()) {
        tracing::warn!("cannot join the groups of neighbour solicitations for the VIPs: {error}");
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown_service<'a>(config: &Config, inspectors: &'a Inspectors) -> Option<&'a str> {
    let inspected = |name: &str| {
        config
            .services
            .iter()
            .any(|s| s.name == name && s.mode == Mode::L7 && s.process.is_none())
    };
    inspectors
        .keys()
        .map(String::as_str)
        .find(|name| !inspected(name))
}
