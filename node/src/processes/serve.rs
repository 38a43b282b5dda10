//! The daemon's side of a process's attachment.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dts_inspector::protocol::{
    MAX_TO_DAEMON, Malformed, Refusal, ToDaemon, ToProcess, VERSION, next_frame,
};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::attached::Attached;
use super::{Processes, count, locked};

/// How many processes may be connected to a service's socket.
const MOST_PROCESSES: usize = 64;

/// How many connections are looked at, greetings and refusals among them: others wait to be accepted.
const MOST_CONVERSATIONS: usize = 2 * MOST_PROCESSES;

/// How long a process may take to greet.
const GREETING: Duration = Duration::from_secs(5);

/// How long to wait before accepting again when the system refuses.
const PAUSE: Duration = Duration::from_millis(100);

/// How often lost connections are looked for.
const PERIOD: Duration = Duration::from_secs(1);

/// Why a process is detached.
#[derive(Debug, Error)]
enum Detached {
    #[error("it has ended")]
    Ended,
    #[error("it did not greet within {GREETING:?}")]
    Silent,
    #[error("it was refused: {0:?}")]
    Refused(Refusal),
    #[error("it sent {0}")]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Attaches the processes that connect, until it is dropped; then they are detached.
pub(super) async fn listen(listener: UnixListener, processes: Arc<Processes>) {
    let mut conversations = JoinSet::new();
    let mut ticks = interval(PERIOD);
    loop {
        tokio::select! {
            accepted = listener.accept(), if conversations.len() < MOST_CONVERSATIONS => match accepted {
                Ok((stream, _)) => {
                    conversations.spawn(converse(stream, Arc::clone(&processes)));
                }
                Err(error) => {
                    let service = &processes.service;
                    tracing::warn!(service, "cannot accept an inspector process: {error}");
                    sleep(PAUSE).await;
                }
            },
            Some(_) = conversations.join_next() => {}
            _ = ticks.tick() => processes.give_up_lost(),
        }
    }
}

async fn converse(stream: UnixStream, processes: Arc<Processes>) {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let service = &processes.service;
    let Err(why) = serve(stream, &processes).await;
    match why {
        Detached::Ended => tracing::info!(service, pid, "an inspector process is detached"),
        Detached::System(_) | Detached::Refused(_) => {
            tracing::warn!(service, pid, "an inspector process is detached: {why}");
        }
        Detached::Silent | Detached::Malformed(_) => {
            count(&processes.counters.malformed);
            tracing::warn!(service, pid, "an inspector process is detached: {why}");
        }
    }
}

/// What can't happen.
enum Never {}

async fn serve(stream: UnixStream, processes: &Arc<Processes>) -> Result<Never, Detached> {
    let connected = processes.connected.fetch_add(1, Ordering::Relaxed);
    let _connected = Connected(processes);
    let (reader, mut writer) = stream.into_split();
    let mut incoming = Incoming {
        reader,
        buffer: Vec::new(),
    };
    let greeting = timeout(GREETING, incoming.greeting(&processes.service)).await;
    let refusal = match greeting {
        Err(_) => return Err(Detached::Silent),
        Ok(Err(Detached::Refused(refusal))) => Some(refusal),
        Ok(Err(error)) => return Err(error),
        Ok(Ok(())) if connected >= MOST_PROCESSES => Some(Refusal::TooMany),
        Ok(Ok(())) => None,
    };
    let mut answer = Vec::new();
    if let Some(reason) = refusal {
        let version = VERSION;
        ToProcess::Refused { version, reason }.emit(&mut answer);
        // A socket's buffer always has room for so little.
        writer.write_all(&answer).await?;
        return Err(Detached::Refused(reason));
    }
    let welcome = ToProcess::Welcome {
        version: VERSION,
        service: &processes.service,
    };
    welcome.emit(&mut answer);
    writer.write_all(&answer).await?;
    let attachment = Attachment::begin(processes);
    tokio::select! {
        ended = incoming.heed(&attachment.process) => ended,
        ended = tell(&mut writer, &attachment.process) => ended,
    }
}

/// Writes what a process is to be told, as fast as it reads.
async fn tell(writer: &mut OwnedWriteHalf, process: &Attached) -> Result<Never, Detached> {
    let mut out = Vec::new();
    loop {
        out.clear();
        process.write(&mut out);
        if out.is_empty() {
            process.work.notified().await;
        } else {
            writer.write_all(&out).await?;
        }
    }
}

/// What a process says.
struct Incoming {
    reader: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Incoming {
    /// Reads more.
    async fn more(&mut self) -> Result<(), Detached> {
        match self.reader.read_buf(&mut self.buffer).await {
            Ok(0) => Err(Detached::Ended),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(Detached::Ended),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the first message, which has to be a greeting for `own`.
    async fn greeting(&mut self, own: &str) -> Result<(), Detached> {
        loop {
            if let Some((frame, length)) = next_frame(&self.buffer, MAX_TO_DAEMON)? {
                let ToDaemon::Hello { version, service } = ToDaemon::parse(frame)? else {
                    return Err(Malformed::Order("no greeting").into());
                };
                if version != VERSION {
                    return Err(Detached::Refused(Refusal::Version));
                }
                if !service.is_empty() && service != own {
                    return Err(Detached::Refused(Refusal::Service));
                }
                self.buffer.drain(..length);
                return Ok(());
            }
            self.more().await?;
        }
    }

    /// Heeds what it says until it ends.
    async fn heed(&mut self, process: &Attached) -> Result<Never, Detached> {
        loop {
            let mut read = 0;
            while let Some((frame, length)) = next_frame(&self.buffer[read..], MAX_TO_DAEMON)? {
                process.handle(ToDaemon::parse(frame)?)?;
                read += length;
            }
            self.buffer.drain(..read);
            self.more().await?;
        }
    }
}

/// Counts a process as connected as long as it lives.
struct Connected<'a>(&'a Processes);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A process among those that connections are given to, as long as it lives.
struct Attachment<'a> {
    processes: &'a Processes,
    process: Arc<Attached>,
}

impl<'a> Attachment<'a> {
    fn begin(processes: &'a Processes) -> Self {
        let process = Arc::new(Attached::default());
        let mut attached = locked(&processes.attached);
        process.tell(&locked(&processes.cluster));
        attached.push(Arc::clone(&process));
        drop(attached);
        count(&processes.counters.attached);
        let service = &processes.service;
        tracing::info!(service, "an inspector process is attached");
        Self { processes, process }
    }
}

impl Drop for Attachment<'_> {
    fn drop(&mut self) {
        let mut attached = locked(&self.processes.attached);
        attached.retain(|other| !Arc::ptr_eq(other, &self.process));
        drop(attached);
        self.process.end();
    }
}
