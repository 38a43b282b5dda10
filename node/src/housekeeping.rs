//! Keeping the connection table true: entries go when their sockets have gone, here and on the node that
//! inspected the connection.
//!
//! Every two seconds the table is read. Entries that were used lately are left alone; the kernel is asked about
//! the sockets of the others (see [`Filter::sweep`]). A processing entry whose socket is gone, or only
//! waits in TIME_WAIT, is over: the inspecting node is told, until it says that it has noted it.

mod asking;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::adoption::stage;
use dts_core::entry::{ConnEntry, ConnKey, SweepRecord, flag, role, state, sweep};
use dts_core::notice::{Kind, MAX_LEN, MAX_RECORDS, Notice, Record};
use dts_core::seq::Seq;
use tokio::net::UdpSocket;
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::current::Current;
use crate::kernel::filter::handover_flow;
use crate::kernel::host::clock::monotonic_ns;
use crate::kernel::{Filter, FilterError};

/// How often the table is read.
const PERIOD: Duration = Duration::from_secs(2);

/// How long an entry must not have been used before its socket is asked about, in milliseconds.
const IDLE: u32 = 300;
/// The same while a handover is being set up: its socket may not be there yet.
const SETTING_UP: u32 = 5_000;
/// How long a handover may take before its entry here is taken for a dead daemon's, in milliseconds.
const ABANDONED: u32 = crate::handover::LONGEST.as_millis() as u32 + 10_000;
/// How long a placed connection's client must have been silent before its node is asked.
const SILENT: u32 = 30_000;

/// How often a notice is repeated, once a period, before its receiver is taken to be gone.
const REPEATS: u32 = 15;

/// How long an entry whose socket waits in TIME_WAIT is left alone after its last segment: the kernel keeps such
/// a socket for 60 seconds, unless a reset ends it, which the filter notes.
const WAITING: u32 = 58_000;

/// Keeps a node's table.
pub struct Housekeeper {
    filter: Arc<Filter>,
    current: watch::Receiver<Arc<Current>>,
    socket: UdpSocket,
    address: IpAddr,
    port: u16,
    key: [u8; 16],
    /// Connections that are over, and whom to tell.
    telling: Mutex<HashMap<Told, Telling>>,
    /// Connections that somebody waits to be told about.
    asking: Mutex<HashMap<(Told, Addr), oneshot::Sender<bool>>>,
}

/// A connection, as a key of a map.
type Told = (FlowKey, u32);

struct Telling {
    peer: Addr,
    repeats: u32,
}

/// What a look at the table found.
#[derive(Default)]
struct Findings {
    /// Connections that ended here, with the node that inspected them.
    ended: Vec<(Record, Addr)>,
    /// Connections to ask other nodes about.
    questions: Vec<(Record, Addr)>,
}

impl Housekeeper {
    /// A housekeeper that speaks from `address`, on UDP port `port`, under `key`.
    ///
    /// # Errors
    ///
    /// When the port can't be used.
    pub async fn new(
        filter: Arc<Filter>,
        current: watch::Receiver<Arc<Current>>,
        address: IpAddr,
        port: u16,
        key: [u8; 16],
    ) -> io::Result<Self> {
        let socket = UdpSocket::bind((address, port)).await?;
        Ok(Self {
            filter,
            current,
            socket,
            address,
            port,
            key,
            telling: Mutex::default(),
            asking: Mutex::default(),
        })
    }

    /// Keeps the table until dropped.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(Self::look_for_ever(Arc::clone(&self)), self.listen());
    }

    async fn look_for_ever(self: Arc<Self>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut handovers = HashSet::new();
        loop {
            ticks.tick().await;
            let this = Arc::clone(&self);
            let seen = std::mem::take(&mut handovers);
            let looked = spawn_blocking(move || {
                let findings = this.look()?;
                let handovers = this.look_at_handovers(&seen)?;
                Ok::<_, FilterError>((findings, handovers))
            });
            match looked.await {
                Ok(Ok((findings, seen))) => {
                    handovers = seen;
                    self.tell(findings).await;
                }
                Ok(Err(error)) => tracing::error!("cannot look after the connections: {error}"),
                Err(_) => return,
            }
        }
    }

    /// Reads the table once.
    fn look(&self) -> Result<Findings, FilterError> {
        let now = (monotonic_ns() / 1_000_000) as u32;
        let current = Arc::clone(&self.current.borrow());
        let members: HashSet<Addr> = current
            .config
            .members
            .iter()
            .map(|m| Addr::from(m.address))
            .collect();
        let mut findings = Findings::default();
        let mut records = Vec::new();
        let mut asked = Vec::new();
        let spliced = self.filter.spliced()?;
        let all = self.filter.connections()?;
        if all.is_empty() {
            self.filter.forget_spliced(spliced)?;
        }
        for (key, entry) in all {
            let idle = now.wrapping_sub(entry.used_at);
            // Used after `now` was read.
            if idle > u32::MAX / 2 {
                continue;
            }
            let request = match (key.role, entry.state) {
                (role::INSPECTING, state::INSPECT) if idle > IDLE => {
                    inspector_request(&current, &entry)
                }
                (role::INSPECTING, state::FROZEN) if idle > ABANDONED => sweep::DELETE_ALWAYS,
                (role::INSPECTING, state::PLACED) => {
                    let own = entry.has(flag::SELF);
                    if !own && !members.contains(&entry.peer) {
                        sweep::DELETE_ALWAYS
                    } else {
                        if idle > SILENT || entry.has(flag::DOUBTED) {
                            let at = self.place(&entry);
                            findings.questions.push(((key.flow, entry.client_isn), at));
                        }
                        continue;
                    }
                }
                (role::PROCESSING, state::HANDING) if idle > SETTING_UP => sweep::DELETE,
                (role::PROCESSING, state::DIRECT) if idle > IDLE => {
                    if entry.has(flag::ENDED) && idle < WAITING {
                        continue;
                    }
                    sweep::DELETE
                }
                _ => continue,
            };
            records.push(SweepRecord {
                key,
                client_isn: entry.client_isn,
                value: request,
            });
            asked.push(entry);
        }
        self.filter.sweep(&mut records)?;
        for (record, entry) in records.iter().zip(&asked) {
            let over = matches!(record.value, sweep::DELETED | sweep::TIME_WAIT);
            if over && record.key.role == role::PROCESSING && !entry.has(flag::ENDED) {
                findings
                    .ended
                    .push(((record.key.flow, record.client_isn), entry.peer));
            }
        }
        Ok(findings)
    }

    /// Forgets handover connections whose socket is gone: those of a daemon that was killed.
    ///
    /// A handover is noted before its socket connects, so only one that was there a period ago is asked
    /// about. Returns those that are there now.
    fn look_at_handovers(
        &self,
        before: &HashSet<(u16, FlowKey)>,
    ) -> Result<HashSet<(u16, FlowKey)>, FilterError> {
        let mut records = Vec::new();
        let mut asked = Vec::new();
        let mut present = HashSet::new();
        for (port, handover) in self.filter.handovers() {
            if before.contains(&(port, handover.flow)) {
                let flow =
                    handover_flow(Addr::from(self.address), port, handover.target, self.port);
                records.push(SweepRecord {
                    key: ConnKey {
                        flow,
                        role: sweep::SOCKET,
                    },
                    client_isn: Seq(0),
                    value: 0,
                });
                asked.push((port, handover));
            }
            present.insert((port, handover.flow));
        }
        self.filter.sweep(&mut records)?;
        for (record, (port, handover)) in records.iter().zip(asked) {
            if record.value == sweep::NO_SOCKET {
                // Unless the port has another flow's by now.
                self.filter.remove_handover(port, &handover);
            }
        }
        Ok(present)
    }

    /// Tells other nodes what ended here, and asks them about what has been silent.
    async fn tell(&self, findings: Findings) {
        let own = Addr::from(self.address);
        let mut local = Vec::new();
        let mut ended: HashMap<Addr, Vec<Record>> = HashMap::new();
        {
            let mut telling = lock(&self.telling);
            for ((flow, isn), peer) in findings.ended {
                if peer == own {
                    local.push((flow, isn));
                } else {
                    telling.insert((flow, isn.0), Telling { peer, repeats: 0 });
                }
            }
            telling.retain(|(flow, isn), telling| {
                telling.repeats += 1;
                ended
                    .entry(telling.peer)
                    .or_default()
                    .push((*flow, Seq(*isn)));
                telling.repeats < REPEATS
            });
        }
        let mut local = self.with(&local, own);
        let mut questions: HashMap<Addr, Vec<Record>> = HashMap::new();
        for (record, peer) in findings.questions {
            if peer == own {
                local.extend(self.not_here(&[record]));
            } else {
                questions.entry(peer).or_default().push(record);
            }
        }
        self.forget(&local);
        for (kind, notices) in [(Kind::Ended, ended), (Kind::Question, questions)] {
            for (peer, records) in notices {
                self.send(kind, &records, peer).await;
            }
        }
    }

    async fn send(&self, kind: Kind, records: &[Record], peer: Addr) {
        let to = SocketAddr::new(IpAddr::from(peer), self.port);
        for records in records.chunks(MAX_RECORDS) {
            let mut b = [0; MAX_LEN];
            let len = Notice::new(kind, records).emit(&self.key, unix_now(), &mut b);
            if let Err(error) = self.socket.send_to(&b[..len], to).await {
                // It is said again in the next period.
                tracing::debug!(%to, %error, "cannot send a notice");
            }
        }
    }

    /// Takes note of what other nodes say.
    async fn listen(&self) {
        // A byte more than any notice: a longer datagram must not pass for one.
        let mut b = [0; MAX_LEN + 1];
        loop {
            let (len, from) = match self.socket.recv_from(&mut b).await {
                Ok(received) => received,
                Err(error) => {
                    // Such as a port that was unreachable a moment ago.
                    tracing::debug!(%error, "receiving notices");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let peer = Addr::from(from.ip());
            let member = {
                let current = self.current.borrow();
                current
                    .config
                    .members
                    .iter()
                    .any(|m| Addr::from(m.address) == peer)
            };
            if !member {
                tracing::warn!(%from, "a notice from an address that is no member");
                continue;
            }
            match Notice::parse(&b[..len], &self.key, unix_now()) {
                Ok(notice) => self.heed(&notice, peer).await,
                Err(refusal) => tracing::warn!(%from, ?refusal, "not a notice of this cluster's"),
            }
        }
    }

    async fn heed(&self, notice: &Notice, peer: Addr) {
        match notice.kind {
            Kind::Here => self.tell_waiting(notice.records(), peer, true),
            Kind::Ended => {
                self.tell_waiting(notice.records(), peer, false);
                self.forget(&self.with(notice.records(), peer));
                self.send(Kind::Noted, notice.records(), peer).await;
            }
            Kind::Noted => self.noted(notice.records()),
            Kind::Unknown => self.tell_waiting(notice.records(), peer, false),
            Kind::Question | Kind::Known => {
                let (mut gone, mut no) = (self.not_here(notice.records()), Kind::Ended);
                if notice.kind == Kind::Known {
                    gone.retain(|(flow, isn)| !self.is_known(flow, *isn, peer));
                    no = Kind::Unknown;
                }
                let here: Vec<Record> = notice
                    .records()
                    .iter()
                    .filter(|record| !gone.contains(record))
                    .copied()
                    .collect();
                for (kind, records) in [(no, gone), (Kind::Here, here)] {
                    if !records.is_empty() {
                        self.send(kind, &records, peer).await;
                    }
                }
            }
        }
    }

    /// Another node knows now that connections are over: it need not be told again, nor by a SYN that another
    /// connection of the flow begins with.
    fn noted(&self, records: &[Record]) {
        {
            let mut telling = lock(&self.telling);
            for (flow, isn) in records {
                telling.remove(&(*flow, isn.0));
            }
        }
        self.request(role::PROCESSING, records, sweep::NOTED);
    }

    /// Those of the connections that this node's server doesn't have.
    fn not_here(&self, records: &[Record]) -> Vec<Record> {
        let here = |(flow, isn): &Record| {
            let key = ConnKey {
                flow: *flow,
                role: role::PROCESSING,
            };
            match self.filter.connection(&key) {
                Ok(Some(entry)) if entry.client_isn == *isn => !entry.has(flag::ENDED),
                Ok(_) => self.adopted(flow, *isn),
                // Not known: better to be asked again.
                Err(_) => true,
            }
        };
        records
            .iter()
            .filter(|record| !here(record))
            .copied()
            .collect()
    }

    /// Whether this node's server has adopted a connection, and has it still.
    fn adopted(&self, flow: &FlowKey, isn: Seq) -> bool {
        match self.filter.adoption(flow) {
            Ok(Some(known)) if known.client_isn == isn => {
                let alive = self.filter.alive(&[*flow]);
                matches!(known.stage, stage::HERE | stage::OPEN)
                    && alive.is_ok_and(|alive| alive == [true])
            }
            Ok(_) => false,
            // Not known: better to be asked again.
            Err(_) => true,
        }
    }

    /// Forgets that connections are placed elsewhere.
    fn forget(&self, records: &[Record]) {
        self.request(role::INSPECTING, records, sweep::DELETE_ALWAYS);
    }

    /// The node that an inspecting entry's connection is at.
    fn place(&self, entry: &ConnEntry) -> Addr {
        match entry.has(flag::SELF) {
            true => Addr::from(self.address),
            false => entry.peer,
        }
    }

    /// Those of the connections that `peer` has, as far as is known here. A node that a handover was tried with before
    /// another took it says, too, that the connection is over there.
    fn with(&self, records: &[Record], peer: Addr) -> Vec<Record> {
        let has = |(flow, _): &&Record| {
            let key = ConnKey {
                flow: *flow,
                role: role::INSPECTING,
            };
            let entry = self.filter.connection(&key).ok().flatten();
            entry.is_some_and(|entry| entry.state != state::INSPECT && self.place(&entry) == peer)
        };
        records.iter().filter(has).copied().collect()
    }

    /// Has the filter do something to connections' entries.
    fn request(&self, role: u32, records: &[Record], value: u32) {
        let mut sweeps: Vec<_> = records
            .iter()
            .map(|(flow, isn)| SweepRecord {
                key: ConnKey { flow: *flow, role },
                client_isn: *isn,
                value,
            })
            .collect();
        if let Err(error) = self.filter.sweep(&mut sweeps) {
            tracing::error!("cannot take note of connections that are over: {error}");
        }
    }
}

/// What to ask about an entry of the inspector's: its socket is on the inspector's port.
fn inspector_request(current: &Current, entry: &ConnEntry) -> u32 {
    let service = current
        .inspected
        .iter()
        .find(|s| s.service.id() == entry.service);
    match service {
        Some(service) => sweep::DELETE | u32::from(service.inspector_port) << 16,
        // The service is gone, and its listener with it.
        None => sweep::DELETE_ALWAYS,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
