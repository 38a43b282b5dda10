//! `dts trace`: what the filters of one or several nodes do with each segment, live.

mod feed;
mod ladder;
mod merge;
mod notes;
mod numbers;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anstream::eprintln;
use anyhow::{Context as _, bail};
use dts_lab::Lab;
use dts_node::admin::{Client, ClientError, TraceSegment, TraceStart};

use crate::args::TraceArgs;
use crate::ask;
use crate::render::grouped;

use feed::{Event, Feeds};
use ladder::Ladder;
use merge::{Merge, Rung};

/// How often it is looked whether time is up.
const PERIOD: Duration = Duration::from_millis(50);

/// How often it is said that segments are missing.
const MISSED_PERIOD: Duration = Duration::from_secs(1);

/// Traces until the user, the count or the time ends it.
pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<()> {
    let (feeds, starts) = open(args)?;
    if let Some(node) = &args.node {
        check_node(node, &starts)?;
    }
    let events = feeds.start()?;
    let nodes: Vec<&str> = starts.iter().map(|start| &*start.node).collect();
    eprintln!("Tracing {}; Ctrl-C ends it", nodes.join(", "));
    let mut trace = Trace {
        args,
        merge: Merge::new(starts.iter().map(|start| start.node.clone())),
        ladder: Ladder::new(&starts),
        out: anstream::stdout(),
        told: Told::default(),
    };
    let began = Instant::now();
    let ended = trace.follow(&events, began);
    if !is_broken_pipe(&ended) {
        trace.told.sum_up(began.elapsed(), trace.merge.missed());
    }
    ended
}

fn is_broken_pipe(ended: &anyhow::Result<()>) -> bool {
    let error = ended.as_ref().err();
    let error = error.and_then(|error| error.downcast_ref::<std::io::Error>());
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Asks the daemon, or all daemons of a lab. One that is away is no reason not to hear the others.
fn open(args: &TraceArgs) -> anyhow::Result<(Feeds, Vec<TraceStart>)> {
    let mut feeds = Feeds::default();
    let mut starts = Vec::new();
    let Some(name) = &args.lab else {
        let (start, reader) = ask::client(&args.daemon)?.trace(args.query())?;
        feeds.add(&start.node, reader);
        return Ok((feeds, vec![start]));
    };
    let lab = Lab::open(name)?;
    let mut away = None;
    for node in 1..=lab.spec().node_count() {
        let asked =
            Client::connect(&lab.daemon_socket(node)).and_then(|client| client.trace(args.query()));
        match asked {
            Ok((start, reader)) => {
                feeds.add(&start.node, reader);
                starts.push(start);
            }
            Err(error @ ClientError::NotRunning { .. }) => {
                eprintln!("n{node} is not traced: {error}");
                away = Some(error);
            }
            Err(error) => return Err(error).with_context(|| format!("cannot trace n{node}")),
        }
    }
    match away {
        Some(error) if starts.is_empty() => Err(error.into()),
        _ => Ok((feeds, starts)),
    }
}

fn check_node(node: &str, starts: &[TraceStart]) -> anyhow::Result<()> {
    let members: Vec<&str> = starts
        .first()
        .map(|start| start.members.iter().map(String::as_str).collect())
        .unwrap_or_default();
    if !members.contains(&node) {
        bail!(
            "there is no node {node:?}: the members are {}",
            members.join(", ")
        );
    }
    Ok(())
}

/// A trace that is going on.
struct Trace<'a, W: std::io::Write> {
    args: &'a TraceArgs,
    merge: Merge,
    ladder: Ladder,
    out: W,
    told: Told,
}

/// What has been shown.
#[derive(Default)]
struct Told {
    segments: u64,
    connections: HashSet<SocketAddr>,
    missed: u64,
    missed_at: Option<Instant>,
}

impl<W: std::io::Write> Trace<'_, W> {
    fn follow(&mut self, events: &Receiver<Event>, began: Instant) -> anyhow::Result<()> {
        if !self.args.daemon.json {
            self.out.write_all(self.ladder.heading().as_bytes())?;
            self.out.flush()?;
        }
        let end = self
            .args
            .seconds
            .map(|seconds| began + Duration::from_secs(seconds));
        loop {
            match events.recv_timeout(PERIOD) {
                Ok(event) => {
                    if !self.take(event)? {
                        break;
                    }
                    // What came meanwhile is one write with it.
                    for event in events.try_iter().take(1000) {
                        if !self.take(event)? {
                            return self.finish();
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !self.show(false)? {
                return Ok(());
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
        }
        self.finish()
    }

    /// Takes note of what comes; `false` when that is the end.
    fn take(&mut self, event: Event) -> anyhow::Result<bool> {
        match event {
            Event::Segment(segment) => self.merge.add(*segment),
            Event::Beat(node, beat) => self.merge.beat(&node, &beat),
            Event::Gone(node, error) => {
                if self.merge.leave(&node) == 0 {
                    self.show(true)?;
                    return Err(error.into());
                }
                eprintln!("{node} is not traced any more: {error}");
            }
            Event::Stop => return Ok(false),
        }
        Ok(true)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.show(true).map(|_| ())
    }

    /// Shows what is in order by now, or everything; `false` when that was enough.
    fn show(&mut self, all: bool) -> anyhow::Result<bool> {
        let pairs = !self.args.daemon.json;
        let enough = |told: &Told| self.args.count.is_some_and(|count| told.segments >= count);
        let mut text = String::new();
        while !enough(&self.told)
            && let Some(rung) = self.merge.next(all, pairs)
        {
            if self.is_wanted(&rung) {
                self.told.note(&rung.segment);
                match self.args.daemon.json {
                    true => text += &(serde_json::to_string(&rung.segment)? + "\n"),
                    false => text += &self.ladder.line(&rung),
                }
            }
        }
        if let Some(missed) = self.told.newly_missed(self.merge.missed()) {
            match self.args.daemon.json {
                true => eprintln!("{}", not_shown(missed)),
                false => text += &format!("          {}\n", not_shown(missed)),
            }
        }
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(!enough(&self.told))
    }

    fn is_wanted(&self, rung: &Rung) -> bool {
        let Some(wanted) = &self.args.node else {
            return true;
        };
        let has_part = |segment: &TraceSegment| {
            segment.node == *wanted
                || segment.from.as_ref() == Some(wanted)
                || segment.to.as_ref() == Some(wanted)
        };
        has_part(&rung.segment) || rung.arrival.as_ref().is_some_and(has_part)
    }
}

fn not_shown(missed: u64) -> String {
    format!(
        "... {} segments not shown: more than a trace may cost; --client or --service narrows it",
        grouped(missed)
    )
}

impl Told {
    fn note(&mut self, segment: &TraceSegment) {
        self.segments += 1;
        self.connections.extend(segment.client);
    }

    /// How many segments are missing that nothing has been said of, if it is time to say so.
    fn newly_missed(&mut self, missed: u64) -> Option<u64> {
        let recent = self
            .missed_at
            .is_some_and(|at| at.elapsed() < MISSED_PERIOD);
        if missed <= self.missed || recent {
            return None;
        }
        let new = missed - self.missed;
        self.missed = missed;
        self.missed_at = Some(Instant::now());
        Some(new)
    }

    fn sum_up(&self, time: Duration, missed: u64) {
        let missing = match missed {
            0 => String::new(),
            _ => format!("; {} were not shown", grouped(missed)),
        };
        eprintln!(
            "{} segments of {} connections in {:.1} s{missing}",
            grouped(self.segments),
            grouped(self.connections.len() as u64),
            time.as_secs_f64()
        );
    }
}
