//! Traces: what the filter does with each segment, told to whoever asks.
//!
//! The filter writes records into a ring buffer while its settings say so, for two seconds more each time that they are
//! set. A thread sets them as long as somebody listens and takes what there is, twenty times a second and so many records
//! at a time: that bounds what a trace costs. What finds no room in the buffer meanwhile is counted, and told.
//!
//! There is one buffer. Several traces at once get what one of them wants, each its own part of it.

mod frame;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dts_core::addr::{Addr, FlowKey};
use dts_core::trace::{TraceRecord, TraceSettings, known, program, wish};
use dts_core::verdict::Verdict;
use tokio::sync::{mpsc, watch};

use crate::admin::{TraceBeat, TraceFeed, TraceLine, TraceQuery, TraceSegment, TraceStart};
use crate::config::{Config, Service};
use crate::current::Current;
use crate::kernel::Filter;
use crate::kernel::host::clock::monotonic_ns;

use frame::Read;

/// How many traces there may be at once.
const MOST: usize = 8;

/// How often the filter's records are taken, and how many at a time: at most 5000 a second.
const PERIOD: Duration = Duration::from_millis(50);
const BATCH: usize = 250;

/// For how long the filter goes on by itself.
const LEASE: Duration = Duration::from_secs(2);

/// How many lines a client may be behind. What doesn't fit is counted as missed.
const BEHIND: usize = 8192;

/// How long a program may take from reading the clock to writing its record.
const LATE: Duration = Duration::from_millis(5);

/// How often it is looked up which link address is whose.
const NEIGHBOURS: Duration = Duration::from_secs(1);

/// What a segment's sender or receiver is called if it is the client.
const CLIENT: &str = "client";

/// The traces of a node.
pub struct Tracer {
    filter: Arc<Filter>,
    current: watch::Receiver<Arc<Current>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    feeds: Vec<Feed>,
    /// Whether the thread is there that serves them.
    served: bool,
}

/// One trace.
struct Feed {
    /// It gets what fits one of these: a service with several VIPs is wanted at each.
    wanted: Vec<TraceSettings>,
    /// When it began, by the monotonic clock.
    since: u64,
    /// What the filter had missed by then.
    missed_before: u64,
    /// What this one's client was too slow for.
    too_slow: u64,
    lines: mpsc::Sender<TraceLine>,
}

impl Tracer {
    /// One for a filter and the configuration in use.
    #[must_use]
    pub fn new(filter: Arc<Filter>, current: watch::Receiver<Arc<Current>>) -> Arc<Self> {
        Arc::new(Self {
            filter,
            current,
            state: Mutex::default(),
        })
    }

    /// Begins a trace.
    ///
    /// # Errors
    ///
    /// A sentence: there is no such service, there are too many traces, or the filter can't be told.
    pub fn begin(self: &Arc<Self>, query: &TraceQuery) -> Result<TraceFeed, String> {
        let current = Arc::clone(&self.current.borrow());
        let wanted = wanted(query, &current.config)?;
        let mut state = self.locked();
        state.feeds.retain(|feed| !feed.lines.is_closed());
        if state.feeds.len() >= MOST {
            return Err(format!(
                "{MOST} traces are going on already: end one of them"
            ));
        }
        let text = |error: crate::kernel::FilterError| error.to_string();
        let missed_before = self.filter.traces_missed().map_err(text)?;
        let (sender, lines) = mpsc::channel(BEHIND);
        // What an earlier trace has left in the buffer is older.
        let since = monotonic_ns();
        if !state.served {
            let work = Work::new(Arc::clone(self));
            thread::Builder::new()
                .name("trace".to_owned())
                .spawn(move || work.go_on())
                .map_err(|error| format!("cannot start a thread for the trace: {error}"))?;
            state.served = true;
        }
        state.feeds.push(Feed {
            wanted,
            since,
            missed_before,
            too_slow: 0,
            lines: sender,
        });
        self.renew(&state.feeds).map_err(|error| {
            state.feeds.pop();
            text(error)
        })?;
        let members = current.config.members.iter();
        let start = TraceStart {
            node: current.config.node.id.to_string(),
            members: members.map(|member| member.id.to_string()).collect(),
        };
        Ok(TraceFeed { start, lines })
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the filter go on with what the traces want.
    fn renew(&self, feeds: &[Feed]) -> Result<(), crate::kernel::FilterError> {
        let union = union(feeds.iter().flat_map(|feed| &feed.wanted));
        self.filter.set_trace(&TraceSettings {
            until: monotonic_ns() + LEASE.as_nanos() as u64,
            ..union
        })
    }
}

/// What a query wants, in the filter's form.
fn wanted(query: &TraceQuery, config: &Config) -> Result<Vec<TraceSettings>, String> {
    let ends = match &query.service {
        None => vec![(Addr::default(), 0)],
        Some(name) => ends_of(config, name)?,
    };
    let at = |(vip, port): (Addr, u16)| TraceSettings {
        client: query
            .client
            .map(|ip| ip.to_canonical())
            .map(Addr::from)
            .unwrap_or_default(),
        client_port: query.client_port.unwrap_or(0).into(),
        vip,
        port: port.into(),
        flags: if query.all { wish::ALL } else { 0 },
        ..TraceSettings::default()
    };
    Ok(ends.into_iter().map(at).collect())
}

/// Where the service of this name is; one with several VIPs is in the configuration for each of them.
fn ends_of(config: &Config, name: &str) -> Result<Vec<(Addr, u16)>, String> {
    let its = config.services.iter().filter(|s| s.name == name);
    let ends: Vec<_> = its.map(|s| (Addr::from(s.vip), s.port)).collect();
    if !ends.is_empty() {
        return Ok(ends);
    }
    let mut names: Vec<&str> = config.services.iter().map(|s| &*s.name).collect();
    names.dedup();
    Err(match names[..] {
        [] => format!("there is no service {name:?}: the node has none"),
        _ => format!(
            "there is no service {name:?}: the node has {}",
            names.join(", ")
        ),
    })
}

/// What all of these want together, or more.
fn union<'a>(mut all: impl Iterator<Item = &'a TraceSettings>) -> TraceSettings {
    fn same<T: PartialEq + Default>(a: T, b: T) -> T {
        if a == b { a } else { T::default() }
    }
    let Some(first) = all.next() else {
        return TraceSettings::default();
    };
    all.fold(*first, |a, b| TraceSettings {
        client: same(a.client, b.client),
        vip: same(a.vip, b.vip),
        client_port: same(a.client_port, b.client_port),
        port: same(a.port, b.port),
        flags: a.flags | b.flags,
        ..a
    })
}

/// Whether somebody who wants this wants a record that the filter has made for all.
fn fits(wanted: &[TraceSettings], record: &TraceRecord) -> bool {
    let extra = record.known & known::EXTRA != 0;
    let fits_one = |wanted: &TraceSettings| {
        wanted.wants(&record.flow) && (!extra || wanted.flags & wish::ALL != 0)
    };
    wanted.iter().any(fits_one)
}

/// What the thread works with.
struct Work {
    tracer: Arc<Tracer>,
    /// Unix time minus monotonic time, in nanoseconds.
    offset: i128,
    /// Link addresses on the back network.
    neighbours: HashMap<[u8; 6], String>,
    looked: Instant,
}

impl Work {
    fn new(tracer: Arc<Tracer>) -> Self {
        let mut work = Self {
            tracer,
            offset: 0,
            neighbours: HashMap::new(),
            looked: Instant::now(),
        };
        work.look();
        work
    }

    /// Looks up what changes now and then.
    fn look(&mut self) {
        self.looked = Instant::now();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix = unix.map_or(0, |time| time.as_nanos() as i128);
        self.offset = unix - i128::from(monotonic_ns());
        let config = Arc::clone(&self.tracer.current.borrow());
        match self.tracer.filter.targets() {
            Ok(targets) => {
                let named = targets.iter().filter(|(_, target)| target.mac != [0; 6]);
                self.neighbours = named
                    .filter_map(|(address, t)| Some((t.mac, member(&config.config, *address)?)))
                    .collect();
            }
            Err(error) => tracing::warn!("a trace can't tell the nodes by their frames: {error}"),
        }
    }

    fn go_on(mut self) {
        loop {
            thread::sleep(PERIOD);
            if self.looked.elapsed() >= NEIGHBOURS {
                self.look();
            }
            let tracer = Arc::clone(&self.tracer);
            let mut state = tracer.locked();
            state.feeds.retain(|feed| !feed.lines.is_closed());
            if state.feeds.is_empty() {
                state.served = false;
                if let Err(error) = tracer.filter.set_trace(&TraceSettings::default()) {
                    tracing::warn!("cannot end a trace, which ends by itself: {error}");
                }
                return;
            }
            if let Err(error) = tracer.renew(&state.feeds) {
                tracing::warn!("cannot go on with a trace: {error}");
            }
            self.tell(&mut state.feeds);
        }
    }

    /// Takes what the filter has written, and gives it to those who want it.
    fn tell(&self, feeds: &mut [Feed]) {
        let tracer = &self.tracer;
        let now = monotonic_ns();
        let mut last = now;
        let config = Arc::clone(&tracer.current.borrow());
        let taken = tracer.filter.take_traces(BATCH, |record| {
            last = record.time;
            let mut view = None;
            for feed in feeds.iter_mut() {
                if record.time < feed.since || !fits(&feed.wanted, record) {
                    continue;
                }
                let Some(view) = view.get_or_insert_with(|| self.view(record, &config.config))
                else {
                    return;
                };
                let line = TraceLine::Segment(Box::new(view.clone()));
                if feed.lines.try_send(line).is_err() {
                    feed.too_slow += 1;
                }
            }
        });
        // Records that were left there are not older than the last that was taken.
        let all_until = if taken < BATCH { now } else { last };
        let missed = tracer.filter.traces_missed().unwrap_or_default();
        for feed in feeds {
            let beat = TraceBeat {
                until_ns: all_until.saturating_sub(LATE.as_nanos() as u64),
                missed: missed.saturating_sub(feed.missed_before) + feed.too_slow,
            };
            // The next one will say the same.
            let _ = feed.lines.try_send(TraceLine::Beat(beat));
        }
    }

    /// A record as it is told; `None` for one that makes no sense.
    fn view(&self, record: &TraceRecord, config: &Config) -> Option<TraceSegment> {
        let [before_len, after_len] = record.lengths;
        let before = frame::read(&record.before, before_len)?;
        let after = frame::read(&record.after, after_len);
        let verdict = Verdict::from_counter(record.verdict)?;
        let flow = (record.flow != FlowKey::default()).then_some(record.flow);
        let (from, to) = self.parties(record, (&before, after.as_ref()), config);
        let has = |bit| record.known & bit != 0;
        Some(TraceSegment {
            time_us: ((i128::from(record.time) + self.offset) / 1000) as u64,
            monotonic_ns: record.time,
            node: config.node.id.to_string(),
            program: program::name(record.program)?.to_owned(),
            verdict: verdict.name().to_owned(),
            dropped: matches!(verdict, Verdict::Drop(_)),
            service: flow.and_then(|flow| service_of(config, &flow)),
            client: flow.map(|flow| SocketAddr::new(flow.remote.into(), flow.remote_port)),
            vip: flow.map(|flow| SocketAddr::new(flow.local.into(), flow.local_port)),
            from,
            to,
            peer: has(known::PEER)
                .then(|| member(config, record.peer))
                .flatten(),
            client_isn: has(known::CLIENT_ISN).then_some(record.client_isn),
            server_isn: has(known::SERVER_ISN).then_some(record.server_isn),
            after: after
                .map(|after| after.segment)
                .filter(|after| *after != before.segment),
            before: before.segment,
        })
    }

    /// Who sent a segment and who was to get it, as it was on the wire.
    fn parties(
        &self,
        record: &TraceRecord,
        (before, after): (&Read, Option<&Read>),
        config: &Config,
    ) -> (Option<String>, Option<String>) {
        let own = Some(config.node.id.to_string());
        let client = Some(CLIENT.to_owned());
        let after = after.unwrap_or(before);
        let by_mac = |mac: &[u8; 6]| self.neighbours.get(mac).cloned();
        let by_address = |ip: IpAddr| member(config, Addr::from(ip));
        match record.program {
            // A mark of ours: the filter or the daemon has made it arrive here.
            program::FRONT_INGRESS if record.mark != 0 => (own.clone(), own),
            program::FRONT_INGRESS => (client, own),
            program::FRONT_EGRESS => {
                let to = &after.segment.destination;
                let is_client = Addr::from(to.ip()) == record.flow.remote
                    && to.port() == record.flow.remote_port;
                let other = || by_address(to.ip()).or_else(|| own.clone());
                (own.clone(), if is_client { client } else { other() })
            }
            program::BACK_INGRESS => {
                let from = by_address(before.segment.source.ip());
                let from = from.or_else(|| by_mac(&before.source_mac));
                (from, own)
            }
            _ => {
                let to = by_address(after.segment.destination.ip());
                let to = to.or_else(|| by_mac(&after.destination_mac));
                // The daemon's segments for this node's own server turn round here.
                (own.clone(), to.or(own))
            }
        }
    }
}

/// The member with a back address, this node by its pseudo-address as well.
fn member(config: &Config, address: Addr) -> Option<String> {
    if address == Addr::from(config.node.self_address) {
        return Some(config.node.id.to_string());
    }
    let mut members = config.members.iter();
    let found = members.find(|member| Addr::from(member.address) == address);
    found.map(|member| member.id.to_string())
}

fn service_of(config: &Config, flow: &FlowKey) -> Option<String> {
    let mut services = config.services.iter();
    let is_its = |s: &&Service| Addr::from(s.vip) == flow.local && s.port == flow.local_port;
    services.find(is_its).map(|service| service.name.clone())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const A: Addr = Addr::v4([198, 18, 0, 1]);
    const B: Addr = Addr::v4([198, 18, 0, 2]);

    fn of(client: Addr, port: u32, flags: u32) -> TraceSettings {
        TraceSettings {
            client,
            port,
            flags,
            ..TraceSettings::default()
        }
    }

    #[test]
    fn a_service_is_traced_at_each_of_its_vips() {
        let text = r#"
            cluster = { name = "demo", secret_file = "/etc/dts/secret" }
            node = { id = "n1", front = "eth0", back = "eth1", address = "198.18.1.11" }
            membership.members = [{ id = "n1", address = "198.18.1.11" }]
            [[service]]
            name = "web"
            vip = ["198.18.0.100", "2001:db8::100"]
            port = 80
            mode = "l4""#;
        let config = Config::parse(Path::new("dts.toml"), text).unwrap().0;
        let query = |service: &str| TraceQuery {
            service: Some(service.to_owned()),
            ..TraceQuery::default()
        };
        let both = wanted(&query("web"), &config).unwrap();
        let ends: Vec<_> = both.iter().map(|one| (one.vip, one.port)).collect();
        let v6: IpAddr = "2001:db8::100".parse().unwrap();
        let v4 = Addr::v4([198, 18, 0, 100]);
        assert_eq!(ends, [(v4, 80), (Addr::from(v6), 80)]);
        assert_eq!(union(both.iter()), of(Addr::default(), 80, 0));
        let error = wanted(&query("x"), &config).unwrap_err();
        assert_eq!(error, "there is no service \"x\": the node has web");
    }

    #[test]
    fn several_traces_together_get_what_each_of_them_wants() {
        assert_eq!(union([].iter()), TraceSettings::default());
        assert_eq!(union([of(A, 80, 0)].iter()), of(A, 80, 0));
        assert_eq!(union([of(A, 80, 0), of(A, 80, 0)].iter()), of(A, 80, 0));
        let none = Addr::default();
        assert_eq!(union([of(A, 80, 0), of(B, 80, 1)].iter()), of(none, 80, 1));
        // Once it is every client's, it stays so.
        let three = [of(A, 80, 0), of(B, 81, 0), of(A, 80, 0)];
        assert_eq!(union(three.iter()), of(none, 0, 0));
    }
}
