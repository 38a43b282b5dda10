//! The users: sessions that ask for pages, their images and downloads, all on one thread that waits for all of them at once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustix::event::{Timespec, epoll};
use std::os::fd::OwnedFd;

use super::connection::{Connection, Limit, Progress, Wanted, What};
use super::model::{self, Download, Model, Page};
use super::qos::{self, Grade, Tally};
use super::scale::Scale;

/// Connections that a user has at once for a page's images.
const PARALLEL: u8 = 2;
/// Steps of a user after which any page is as likely as in the long run.
const MIXING: u32 = 100;
/// How often late requests are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// What there is to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// So many downloads as fast as they come, without users: it fills caches.
    Fill { downloads: u64, at_once: usize },
    /// The benchmark: users, of which is counted what ends in a time.
    Users {
        warm_up: Duration,
        measured: Duration,
    },
}

/// Who asks whom for what.
pub(super) struct Plan<'a> {
    pub(super) model: &'a Model,
    pub(super) scale: Scale,
    pub(super) addresses: Vec<Ipv4Addr>,
    pub(super) seed: u64,
    pub(super) work: Work,
    /// The nodes that downloads must come from, if the rules say.
    pub(super) owners: &'a HashMap<Download, u8>,
}

/// What happens at the edges of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    Begin,
    End,
}

struct Session {
    random: StdRng,
    page: Page,
    address: Ipv4Addr,
    begun: Instant,
    next_image: u8,
    flying: u8,
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Session(usize),
    Connection { slot: usize, serial: u32 },
}

/// The state of a run.
struct Engine<'a> {
    plan: &'a Plan<'a>,
    epoll: OwnedFd,
    sessions: Vec<Session>,
    connections: Vec<Option<(u32, Connection)>>,
    free: Vec<usize>,
    /// Requests that could not even begin: they end in the next turn.
    refused: Vec<(usize, What, String)>,
    serial: u32,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    measuring: bool,
    /// Downloads that are still to begin, when caches are filled.
    left: u64,
    tally: Tally,
    buffer: Vec<u8>,
}

/// Does it. Runs in the clients' namespace. `edge` is called when counting begins and ends.
pub(super) fn run(
    plan: &Plan<'_>,
    edge: &mut dyn FnMut(Edge) -> anyhow::Result<()>,
) -> anyhow::Result<Tally> {
    let mut engine = Engine::new(plan)?;
    let begin = Instant::now();
    engine.start(begin);
    match plan.work {
        Work::Fill { .. } => {
            engine.measuring = true;
            while engine.is_busy() {
                engine.turn(Instant::now() + LOOK)?;
            }
        }
        Work::Users { warm_up, measured } => {
            engine.until(begin + warm_up)?;
            edge(Edge::Begin)?;
            engine.measuring = true;
            engine.until(Instant::now() + measured)?;
            edge(Edge::End)?;
            engine.count_late(Instant::now());
        }
    }
    Ok(engine.tally)
}

impl<'a> Engine<'a> {
    fn new(plan: &'a Plan<'a>) -> anyhow::Result<Self> {
        ensure!(!plan.addresses.is_empty(), "no client address");
        let (sessions, left) = match plan.work {
            Work::Fill { downloads, at_once } => (at_once, downloads),
            Work::Users { .. } => (plan.scale.sessions as usize, 0),
        };
        let session = |number: usize| Session {
            page: Page::Home,
            // Each user's own: what they do doesn't depend on how fast others are served.
            random: StdRng::seed_from_u64(plan.seed.wrapping_mul(1_000_003) + number as u64),
            address: plan.addresses[number % plan.addresses.len()],
            begun: Instant::now(),
            next_image: 0,
            flying: 0,
            failed: false,
        };
        Ok(Self {
            plan,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?,
            sessions: (0..sessions).map(session).collect(),
            connections: Vec::new(),
            free: Vec::new(),
            refused: Vec::new(),
            serial: 0,
            timers: BinaryHeap::new(),
            measuring: false,
            left,
            tally: Tally::default(),
            buffer: vec![0; 64 << 10],
        })
    }

    /// The users arrive.
    fn start(&mut self, now: Instant) {
        for number in 0..self.sessions.len() {
            let wait = match self.plan.work {
                Work::Fill { .. } => Duration::ZERO,
                // Spread over the time that one thinks, so that they don't come all at once.
                Work::Users { .. } => {
                    let Session { random, page, .. } = &mut self.sessions[number];
                    // Somewhere in what they do, not all at its beginning.
                    (0..MIXING).for_each(|_| *page = page.after(random));
                    Duration::from_secs_f64(random.random_range(0.0..5.0))
                }
            };
            self.timers
                .push(Reverse((now + wait, Timer::Session(number))));
        }
    }

    fn is_busy(&self) -> bool {
        self.left > 0 || self.sessions.iter().any(|session| session.flying > 0)
    }

    fn until(&mut self, end: Instant) -> anyhow::Result<()> {
        let mut next_look = Instant::now() + LOOK;
        while Instant::now() < end {
            self.turn(end.min(next_look))?;
            if Instant::now() >= next_look {
                next_look += LOOK;
            }
        }
        Ok(())
    }

    /// Waits for what happens next, until `until` at most, and does what follows from it.
    fn turn(&mut self, until: Instant) -> anyhow::Result<()> {
        let now = Instant::now();
        let next = self.timers.peek().map_or(until, |Reverse((at, _))| *at);
        let wait = next.min(until).saturating_duration_since(now);
        let wait = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut events = [MaybeUninit::uninit(); 256];
        let happened = match epoll::wait(&self.epoll, &mut events, Some(&wait)) {
            Ok((happened, _)) => happened,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error).context("waiting for answers"),
        };
        let happened: Vec<u64> = happened.iter().map(|event| event.data.u64()).collect();
        for data in happened {
            self.advance((data & 0xffff_ffff) as usize, (data >> 32) as u32);
        }
        while let Some(Reverse((at, timer))) = self.timers.peek().copied()
            && at <= Instant::now()
        {
            self.timers.pop();
            match timer {
                Timer::Session(session) => self.ask(session),
                Timer::Connection { slot, serial } => self.advance(slot, serial),
            }
        }
        for (session, what, why) in std::mem::take(&mut self.refused) {
            self.ended(session, what, Err(why), None);
        }
        if Instant::now() >= until {
            self.give_up_late_ones();
        }
        Ok(())
    }

    /// A user asks for the next page.
    fn ask(&mut self, number: usize) {
        let session = &mut self.sessions[number];
        match self.plan.work {
            Work::Fill { .. } if self.left == 0 => return,
            Work::Fill { .. } => {
                self.left -= 1;
                session.page = Page::Download;
            }
            Work::Users { .. } => session.page = session.page.after(&mut session.random),
        }
        session.begun = Instant::now();
        (session.next_image, session.flying, session.failed) = (0, 1, false);
        let scale = self.plan.scale;
        let wanted = if session.page == Page::Download {
            let download = self.plan.model.download(&mut session.random);
            let users = matches!(self.plan.work, Work::Users { .. });
            Wanted {
                what: What::Download(download),
                uri: download.uri(),
                bytes: scale.bytes(download.bytes()),
                limit: users.then(|| Limit {
                    speed: scale.speed(),
                    chunk: scale.chunk(),
                    receive_buffer: scale.receive_buffer(),
                }),
            }
        } else {
            let query: u32 = session.random.random();
            Wanted {
                what: What::Page,
                uri: format!("/support/{}.jsp?u={number}&q={query}", session.page.name()),
                bytes: scale.page_bytes(session.page.padding()),
                limit: None,
            }
        };
        self.connect(number, wanted);
    }

    fn connect(&mut self, session: usize, wanted: Wanted) {
        let what = wanted.what;
        let from = self.sessions[session].address;
        let connection = match Connection::begin(from, session, wanted, Instant::now()) {
            Ok(connection) => connection,
            Err(error) => {
                let why = format!("connection: {}", error.kind());
                return self.refused.push((session, what, why));
            }
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.serial = self.serial.wrapping_add(1);
        let data = epoll::EventData::new_u64(u64::from(self.serial) << 32 | slot as u64);
        // Edges only: the kernel is asked once in a connection's life.
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        if let Err(error) = epoll::add(&self.epoll, &connection.socket, data, events) {
            self.free.push(slot);
            let why = format!("connection: {error}");
            return self.refused.push((session, what, why));
        }
        self.connections[slot] = Some((self.serial, connection));
    }

    fn advance(&mut self, slot: usize, serial: u32) {
        let Some(Some((current, connection))) = self.connections.get_mut(slot) else {
            return;
        };
        if *current != serial {
            return;
        }
        match connection.advance(&mut self.buffer) {
            Progress::Blocked => {}
            Progress::Paused(until) => {
                let timer = Timer::Connection { slot, serial };
                self.timers.push(Reverse((until, timer)));
            }
            Progress::Done => self.end(slot, Ok(())),
            Progress::Failed(why) => self.end(slot, Err(why)),
        }
    }

    /// Closes a connection, and goes on with its session.
    fn end(&mut self, slot: usize, result: Result<(), String>) {
        let Some((_, connection)) = self.connections[slot].take() else {
            return;
        };
        self.free.push(slot);
        let (session, what) = (connection.session, connection.wanted.what);
        if self.measuring && result.is_ok() {
            self.place(&connection);
        }
        self.ended(session, what, result, connection.complete);
    }

    /// Notes which node a download came from.
    fn place(&mut self, connection: &Connection) {
        let (What::Download(download), Some(node)) = (connection.wanted.what, connection.node)
        else {
            return;
        };
        self.tally.bytes += connection.wanted.bytes;
        let index = usize::from(node).wrapping_sub(1);
        if let Some(count) = self.tally.by_node.get_mut(index) {
            *count += 1;
        }
        let owner = self.plan.owners.get(&download);
        self.tally.misplaced += u64::from(owner.is_some_and(|owner| *owner != node));
    }

    /// A request has ended: a page's images follow, or the user thinks.
    fn ended(
        &mut self,
        number: usize,
        what: What,
        result: Result<(), String>,
        complete: Option<Instant>,
    ) {
        let complete = complete.unwrap_or_else(Instant::now);
        let session = &mut self.sessions[number];
        session.flying -= 1;
        session.failed |= result.is_err();
        let taken = complete.saturating_duration_since(session.begun);
        if self.measuring {
            if let Err(why) = &result {
                self.tally.error(&format!("{}: {why}", what.name()));
            }
            let unless_failed = |grade| match result {
                Ok(()) => grade,
                Err(_) => Grade::Fail,
            };
            match what {
                What::Page => self.tally.dynamic.add(unless_failed(qos::of_page(taken))),
                What::Image => self.tally.images += 1,
                What::Download(download) => {
                    let bytes = self.plan.scale.bytes(download.bytes());
                    let grade = qos::of_download(bytes, taken, self.plan.scale.speed());
                    self.tally.downloads.add(unless_failed(grade));
                }
            }
        }
        self.next_images(number);
        let session = &mut self.sessions[number];
        if session.flying > 0 {
            return;
        }
        if self.measuring && session.page != Page::Download {
            let grade = match session.failed {
                true => Grade::Fail,
                false => qos::of_page(taken),
            };
            self.tally.pages.add(grade);
            self.tally.page_times.push(taken.as_millis() as u32);
        }
        let wait = match self.plan.work {
            Work::Fill { .. } => Duration::ZERO,
            Work::Users { .. } => model::think(&mut session.random),
        };
        let at = Instant::now() + wait;
        self.timers.push(Reverse((at, Timer::Session(number))));
    }

    /// Asks for as many of a page's images as a user does at once.
    fn next_images(&mut self, number: usize) {
        loop {
            let session = &mut self.sessions[number];
            let (page, image) = (session.page, session.next_image);
            if session.failed || session.flying >= PARALLEL || image >= page.images() {
                return;
            }
            session.next_image += 1;
            session.flying += 1;
            let wanted = Wanted {
                what: What::Image,
                uri: model::image_uri(page, image),
                bytes: self.plan.scale.bytes(page.image_bytes(image)),
                limit: None,
            };
            self.connect(number, wanted);
        }
    }

    fn give_up_late_ones(&mut self) {
        let now = Instant::now();
        for slot in 0..self.connections.len() {
            let late = |(_, c): &(u32, Connection)| c.deadline <= now;
            if self.connections[slot].as_ref().is_some_and(late) {
                let complete = self.connections[slot]
                    .as_ref()
                    .is_some_and(|(_, c)| c.complete.is_some());
                let why = || Err("no answer in time".to_owned());
                self.end(slot, if complete { Ok(()) } else { why() });
            }
        }
    }

    /// Counts what is not complete at the end, and already too late to be even tolerable.
    fn count_late(&mut self, now: Instant) {
        let taken = |session: &Session| now.saturating_duration_since(session.begun);
        for (_, connection) in self.connections.iter().flatten() {
            if connection.complete.is_some() {
                continue;
            }
            let taken = taken(&self.sessions[connection.session]);
            match connection.wanted.what {
                What::Download(_) => {
                    let (bytes, speed) = (connection.wanted.bytes, self.plan.scale.speed());
                    if qos::of_download(bytes, taken, speed) == Grade::Fail {
                        self.tally.late += 1;
                        self.tally.downloads.add(Grade::Fail);
                    }
                }
                What::Page if qos::of_page(taken) == Grade::Fail => {
                    self.tally.dynamic.add(Grade::Fail);
                }
                What::Page | What::Image => {}
            }
        }
        for session in &self.sessions {
            let page = session.flying > 0 && session.page != Page::Download;
            if page && qos::of_page(taken(session)) == Grade::Fail {
                self.tally.pages.add(Grade::Fail);
            }
        }
    }
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Page => "page",
            What::Image => "image",
            What::Download(_) => "download",
        }
    }
}
