//! The daemon's side.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::protocol::{Answer, CLIENT_TIME, MAX_REQUEST, Request, TRACE_TIME};
use super::view::{
    ConnectionFilter, ConnectionList, ReloadReport, RingQuery, RingView, StatsView, StatusView,
    TraceLine, TraceQuery, TraceStart,
};

/// Clients that are served at the same time; others wait.
const MAX_CLIENTS: usize = 32;

/// How long to wait when a connection can't be accepted, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the daemon can tell and do. The functions are called on threads that may block.
///
/// An `Err` is a sentence for the person who asked.
pub trait AdminSource: Send + Sync {
    /// How the daemon and its node are.
    fn status(&self) -> StatusView;
    /// The ring; [`RingView::new`] makes the answer.
    fn ring(&self, query: &RingQuery) -> Result<RingView, String>;
    /// The connections; [`ConnectionFilter::pick`] makes the answer.
    fn connections(&self, filter: &ConnectionFilter) -> Result<ConnectionList, String>;
    /// The counters.
    fn stats(&self) -> Result<StatsView, String>;
    /// Reads the configuration again. When it is wrong, nothing changes.
    fn reload(&self) -> Result<ReloadReport, String>;
    /// Begins a trace, which ends when the feed's lines are dropped.
    fn trace(&self, query: &TraceQuery) -> Result<TraceFeed, String>;
}

/// A trace.
#[derive(Debug)]
pub struct TraceFeed {
    /// The answer to the request.
    pub start: TraceStart,
    /// What follows.
    pub lines: mpsc::Receiver<TraceLine>,
}

/// Answers requests until it is dropped; then the clients of the moment are dropped, too.
pub async fn serve(listener: UnixListener, source: Arc<dyn AdminSource>) {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = Arc::clone(&source);
                clients.spawn(async move {
                    let _slot = slot;
                    if let Err(error) = converse(stream, source).await {
                        tracing::debug!("an admin client went away: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept an admin client: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while clients.try_join_next().is_some() {}
    }
}

/// Serves one client: a request, an answer.
async fn converse(mut stream: UnixStream, source: Arc<dyn AdminSource>) -> io::Result<()> {
    let answer = match timeout(CLIENT_TIME, read_request(&mut stream)).await {
        Ok(Ok(Some(Request::Trace(query)))) => match begin_trace(query, source).await {
            Ok(feed) => return tell(stream, feed).await,
            Err(why) => refusal(why),
        },
        Ok(Ok(Some(request))) => answer(request, source).await,
        // A probe: it wanted to know whether somebody listens.
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(ReadError::Io(error))) => return Err(error),
        Ok(Err(ReadError::Refused(why))) => refusal(why),
        Err(_) => refusal(format!("no request came within {CLIENT_TIME:?}")),
    };
    timeout(CLIENT_TIME, async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    })
    .await?
}

enum ReadError {
    Io(io::Error),
    Refused(String),
}

/// Reads a line. `None` when the client sends none at all.
async fn read_request(stream: &mut UnixStream) -> Result<Option<Request>, ReadError> {
    let mut line = Vec::new();
    // One byte more tells a line that is too long from one that just fits.
    BufReader::new(stream.take(MAX_REQUEST as u64 + 1))
        .read_until(b'\n', &mut line)
        .await
        .map_err(ReadError::Io)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() > MAX_REQUEST {
        return Err(ReadError::Refused(format!(
            "the request is longer than {MAX_REQUEST} bytes"
        )));
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|error| ReadError::Refused(format!("cannot understand the request: {error}")))
}

const FAILED: &str = "the daemon failed to answer; its log says more";

async fn begin_trace(query: TraceQuery, source: Arc<dyn AdminSource>) -> Result<TraceFeed, String> {
    let beginning = tokio::task::spawn_blocking(move || source.trace(&query));
    beginning.await.unwrap_or_else(|_| Err(FAILED.to_owned()))
}

/// Sends the lines of a trace until one of the sides has had enough.
async fn tell(mut stream: UnixStream, feed: TraceFeed) -> io::Result<()> {
    let TraceFeed { start, mut lines } = feed;
    timeout(CLIENT_TIME, stream.write_all(&line(Ok(start)))).await??;
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, 256).await > 0 {
        let mut bytes = Vec::new();
        for line in batch.drain(..) {
            serde_json::to_writer(&mut bytes, &line)?;
            bytes.push(b'\n');
        }
        timeout(TRACE_TIME, stream.write_all(&bytes)).await??;
    }
    Ok(())
}

/// Has the source answer. The line, ready to be sent.
async fn answer(request: Request, source: Arc<dyn AdminSource>) -> Vec<u8> {
    // The source reads maps and files, and an answer may be megabytes.
    let answering = tokio::task::spawn_blocking(move || match request {
        Request::Status => line(Ok(source.status())),
        Request::Ring(query) => line(source.ring(&query)),
        Request::Connections(filter) => line(source.connections(&filter)),
        Request::Stats => line(source.stats()),
        Request::Reload => line(source.reload()),
        Request::Trace(_) => refusal("a trace is no single answer".to_owned()),
    });
    answering
        .await
        .unwrap_or_else(|_| refusal(FAILED.to_owned()))
}

fn refusal(why: String) -> Vec<u8> {
    line(Err::<(), _>(why))
}

fn line<T: Serialize>(result: Result<T, String>) -> Vec<u8> {
    let answer = match result {
        Ok(view) => Answer::Ok(view),
        Err(why) => Answer::Error(why),
    };
    let mut line = serde_json::to_vec(&answer).unwrap_or_else(|error| {
        // Views are structs, lists and maps with text keys: all of them have a JSON form.
        tracing::error!("an admin answer has no JSON form: {error}");
        br#"{"error":"the daemon failed to answer; its log says more"}"#.to_vec()
    });
    line.push(b'\n');
    line
}
