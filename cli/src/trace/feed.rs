//! What the daemons tell, and the signals that end a trace, as one stream of events.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context as _;
use dts_node::admin::{ClientError, TraceBeat, TraceLine, TraceReader, TraceSegment};
use tokio::signal::unix::{SignalKind, signal};

/// How many events may wait to be shown. Beyond that the daemons wait, and count what they can't tell.
const BEHIND: usize = 4096;

/// Something happened.
pub(super) enum Event {
    /// A segment.
    Segment(Box<TraceSegment>),
    /// A node is so far.
    Beat(String, TraceBeat),
    /// A node's daemon tells nothing any more.
    Gone(String, ClientError),
    /// The user has seen enough.
    Stop,
}

/// The daemons that tell, by their nodes' names.
#[derive(Default)]
pub(super) struct Feeds(Vec<(String, TraceReader)>);

impl Feeds {
    pub(super) fn add(&mut self, node: &str, reader: TraceReader) {
        self.0.push((node.to_owned(), reader));
    }

    /// Begins to listen. From now on SIGINT and SIGTERM are events.
    pub(super) fn start(self) -> anyhow::Result<Receiver<Event>> {
        let (sender, events) = sync_channel(BEHIND);
        for (node, reader) in self.0 {
            let sender = sender.clone();
            thread::Builder::new()
                .name(node.clone())
                .spawn(move || listen(node, reader, &sender))
                .context("cannot start a thread")?;
        }
        watch_signals(sender)?;
        Ok(events)
    }
}

fn listen(node: String, mut reader: TraceReader, sender: &SyncSender<Event>) {
    loop {
        let event = match reader.next_line() {
            Ok(TraceLine::Segment(segment)) => Event::Segment(segment),
            Ok(TraceLine::Beat(beat)) => Event::Beat(node.clone(), beat),
            Err(error) => {
                // Whoever doesn't listen any more doesn't miss it.
                let _ = sender.send(Event::Gone(node, error));
                return;
            }
        };
        if sender.send(event).is_err() {
            return;
        }
    }
}

fn watch_signals(sender: SyncSender<Event>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    drop(entered);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            let _ = sender.send(Event::Stop);
        })
        .context("cannot start a thread")?;
    Ok(())
}
