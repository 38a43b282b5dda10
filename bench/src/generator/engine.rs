//! The client's loop.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::time::{ClockId, clock_gettime};

use super::connection::{Connection, Ended};
use super::{Seen, Workload};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often connections are looked over for such requests.
const SWEEP: Duration = Duration::from_millis(500);
/// How often another port is tried when the one that the kernel chose is not free.
const PORTS: usize = 16;
/// What one look at the sockets' state may bring.
const EVENTS: usize = 256;
/// The longest latency that is told apart, in microseconds.
const LONGEST: u64 = 60_000_000;

/// Does what `workload` says, from the calling thread's network namespace.
///
/// # Errors
///
/// When the workload asks for nothing, or the kernel has no sockets for it. Requests that fail are counted.
pub(crate) fn run(workload: &Workload) -> anyhow::Result<Seen> {
    ensure!(
        workload.connections > 0 && workload.per_connection > 0 && !workload.sources.is_empty(),
        "a load without connections, requests or source addresses"
    );
    ensure!(
        workload.rate.is_none_or(|rate| rate > 0.0),
        "a rate of {:?} requests per second",
        workload.rate
    );
    let mut engine = Engine::new(workload)?;
    engine.go()?;
    Ok(engine.seen)
}

struct Slot {
    connection: Option<Connection>,
    /// Tells an event of an earlier connection of this slot's from the present one's.
    generation: u32,
}

struct Engine<'a> {
    workload: &'a Workload,
    epoll: OwnedFd,
    slots: Vec<Slot>,
    /// Slots without a connection.
    free: Vec<u32>,
    /// Slots whose connection has no request under way.
    idle: Vec<u32>,
    /// When requests were due for which there was no connection yet.
    waiting: VecDeque<Instant>,
    next_due: Option<Instant>,
    turn: u64,
    counting: bool,
    seen: Seen,
    buffer: Vec<u8>,
}

impl<'a> Engine<'a> {
    fn new(workload: &'a Workload) -> anyhow::Result<Self> {
        let count = workload.connections;
        let slots = (0..count).map(|_| Slot {
            connection: None,
            generation: 0,
        });
        let histogram = || Histogram::new_with_bounds(1, LONGEST, 3).context("a histogram");
        Ok(Self {
            workload,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: slots.collect(),
            free: (0..count as u32).rev().collect(),
            idle: Vec::new(),
            waiting: VecDeque::new(),
            next_due: None,
            turn: 0,
            counting: false,
            seen: Seen {
                answered: 0,
                bytes: 0,
                failed: BTreeMap::new(),
                time: Duration::ZERO,
                cpu: Duration::ZERO,
                latency: histogram()?,
                first_byte: histogram()?,
                behind: 0,
            },
            buffer: vec![0; 64 << 10],
        })
    }

    fn go(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let counting_from = begin + self.workload.warm_up;
        let end = counting_from + self.workload.duration;
        let mut counted_from = (begin, cpu());
        let mut next_sweep = begin + SWEEP;
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        self.next_due = self.workload.rate.map(|_| begin);
        loop {
            let now = Instant::now();
            if now >= end {
                break;
            }
            if !self.counting && now >= counting_from {
                self.counting = true;
                counted_from = (now, cpu());
            }
            self.begin_what_is_due(now)?;
            if now >= next_sweep {
                self.give_up_on_old(now);
                next_sweep = now + SWEEP;
            }
            let until = self
                .next_due
                .map_or(end, |due| due.min(end))
                .min(next_sweep);
            self.wait(&mut events, until.saturating_duration_since(now))?;
            let now = Instant::now();
            for event in events.drain(..) {
                let data = event.data.u64();
                let (slot, generation) = (data as u32, (data >> 32) as u32);
                if self.slots[slot as usize].generation == generation {
                    self.advance(slot, now);
                }
            }
        }
        self.seen.time = counted_from.0.elapsed();
        self.seen.cpu = cpu().saturating_sub(counted_from.1);
        self.seen.behind = self.waiting.len() as u64;
        Ok(())
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, longest: Duration) -> anyhow::Result<()> {
        let timeout = Timespec {
            tv_sec: longest.as_secs() as i64,
            tv_nsec: longest.subsec_nanos().into(),
        };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for sockets"),
        }
    }

    /// Begins the requests whose time has come, as far as there are connections for them.
    fn begin_what_is_due(&mut self, now: Instant) -> anyhow::Result<()> {
        let Some(rate) = self.workload.rate else {
            while let Some(slot) = self.idle.pop().or_else(|| self.free.pop()) {
                self.begin(slot, now)?;
            }
            return Ok(());
        };
        while let Some(due) = self.next_due.filter(|due| *due <= now) {
            self.waiting.push_back(due);
            self.next_due = Some(due + Duration::from_secs_f64(1.0 / rate));
        }
        while !self.waiting.is_empty() {
            let Some(slot) = self.idle.pop().or_else(|| self.free.pop()) else {
                break;
            };
            if let Some(due) = self.waiting.pop_front() {
                self.begin(slot, due)?;
            }
        }
        Ok(())
    }

    /// Begins a request: on the slot's connection, or on a new one.
    fn begin(&mut self, slot: u32, due: Instant) -> anyhow::Result<()> {
        let turn = self.turn;
        self.turn += 1;
        let workload = self.workload;
        let here = &mut self.slots[slot as usize];
        if let Some(connection) = &mut here.connection {
            connection.left -= 1;
            connection.prepare(&workload.exchange, turn, workload.server, due);
            self.advance(slot, Instant::now());
            return Ok(());
        }
        let source = workload.sources[(turn % workload.sources.len() as u64) as usize];
        let left = workload.per_connection - 1;
        let mut result = Err(ErrorKind::AddrInUse.into());
        for _ in 0..PORTS {
            result =
                Connection::begin(source, workload.server, &workload.exchange, turn, due, left);
            let again = [ErrorKind::AddrInUse, ErrorKind::AddrNotAvailable];
            if !result.as_ref().is_err_and(|e| again.contains(&e.kind())) {
                break;
            }
        }
        let connection = result.with_context(|| format!("cannot connect from {source}"))?;
        here.generation = here.generation.wrapping_add(1);
        let data = u64::from(slot) | u64::from(here.generation) << 32;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            connection.stream(),
            epoll::EventData::new_u64(data),
            flags,
        )?;
        here.connection = Some(connection);
        Ok(())
    }

    /// Goes on with a connection whose socket is ready.
    fn advance(&mut self, slot: u32, now: Instant) {
        let here = &mut self.slots[slot as usize];
        let Some(connection) = &mut here.connection else {
            return;
        };
        let was_idle = connection.is_idle();
        let Some(ended) = connection.advance(&mut self.buffer, now) else {
            return;
        };
        if was_idle {
            // The server has closed it: nothing was asked.
            self.idle.retain(|idle| *idle != slot);
            self.close(slot);
            return;
        }
        match ended {
            Ended::Answered(bytes) => {
                if self.counting {
                    self.seen.count(bytes, connection, now);
                }
                if connection.left == 0 {
                    self.close(slot);
                } else {
                    self.idle.push(slot);
                }
            }
            Ended::Failed(reason) => {
                self.fail(reason);
                self.close(slot);
            }
        }
    }

    fn fail(&mut self, reason: &'static str) {
        if self.counting {
            *self.seen.failed.entry(reason).or_default() += 1;
        }
    }

    fn close(&mut self, slot: u32) {
        let here = &mut self.slots[slot as usize];
        here.connection = None;
        here.generation = here.generation.wrapping_add(1);
        self.free.push(slot);
    }

    fn give_up_on_old(&mut self, now: Instant) {
        for slot in 0..self.slots.len() as u32 {
            let connection = self.slots[slot as usize].connection.as_ref();
            let is_old = connection
                .is_some_and(|c| !c.is_idle() && now.saturating_duration_since(c.due) > PATIENCE);
            if is_old {
                self.fail("timeout");
                self.close(slot);
            }
        }
    }
}

impl Seen {
    fn count(&mut self, bytes: u64, connection: &Connection, now: Instant) {
        let micros = |from: Instant, to: Instant| {
            (to.saturating_duration_since(from).as_micros() as u64).clamp(1, LONGEST)
        };
        self.answered += 1;
        self.bytes += bytes;
        self.latency.saturating_record(micros(connection.due, now));
        if let Some(first) = connection.first_byte {
            self.first_byte
                .saturating_record(micros(connection.sent_at, first));
        }
    }
}

/// Processor time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};

    use super::*;
    use crate::generator::Exchange;

    /// A server that does `serve` with each connection, and its address. Its threads end with their connections, and the one
    /// that accepts with the test's process.
    fn server(serve: fn(TcpStream)) -> SocketAddrV4 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            unreachable!("bound to an IPv4 address")
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream));
            }
        });
        address
    }

    fn workload(server: SocketAddrV4, exchange: Exchange) -> Workload {
        Workload {
            server,
            sources: vec![Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)],
            connections: 4,
            rate: None,
            warm_up: Duration::ZERO,
            duration: Duration::from_millis(200),
            per_connection: 1,
            exchange,
        }
    }

    fn echo(mut stream: TcpStream) {
        let mut buffer = [0; 4];
        if stream.read_exact(&mut buffer).is_ok() {
            let _ = stream.write_all(&buffer);
        }
    }

    /// Answers requests until the client closes.
    fn web(mut stream: TcpStream) {
        let mut buffer = [0; 1024];
        while let Ok(n) = stream.read(&mut buffer)
            && n > 0
        {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel");
            let _ = stream.write_all(b"lo");
        }
    }

    #[test]
    fn echoes_come_back() {
        let seen = run(&workload(server(echo), Exchange::Echo(4))).unwrap();
        assert!(seen.answered > 4 && seen.failures() == 0, "{seen:?}");
        assert_eq!(seen.bytes, 4 * seen.answered);
        assert_eq!(seen.latency.len(), seen.answered);
    }

    #[test]
    fn answers_are_read_on_lasting_connections() {
        let paths = vec!["/a".to_owned(), "/b".to_owned()];
        let mut workload = workload(server(web), Exchange::Get { paths });
        workload.per_connection = 1000;
        let seen = run(&workload).unwrap();
        assert!(seen.answered > 4 && seen.failures() == 0, "{seen:?}");
        assert_eq!(seen.bytes, 5 * seen.answered);
    }

    #[test]
    fn wrong_and_missing_answers_are_counted() {
        let wrong = |mut stream: TcpStream| {
            let _ = stream.read(&mut [0; 4]);
            let _ = stream.write_all(b"xxxx");
        };
        let seen = run(&workload(server(wrong), Exchange::Echo(4))).unwrap();
        assert!(seen.failed["wrong"] > 0 && seen.answered == 0, "{seen:?}");
        let silent = |mut stream: TcpStream| {
            let _ = stream.read(&mut [0; 4]);
        };
        let seen = run(&workload(server(silent), Exchange::Echo(4))).unwrap();
        assert!(seen.failed["closed"] > 0 && seen.answered == 0, "{seen:?}");
    }

    #[test]
    fn a_rate_is_kept_and_delays_are_not_hidden() {
        let mut given = workload(server(echo), Exchange::Echo(4));
        given.rate = Some(100.0);
        let seen = run(&given).unwrap();
        assert!((15..=21).contains(&seen.answered), "{seen:?}");
        // One connection, 20 ms an answer, a request due every 5 ms: the later ones have waited for the earlier ones.
        let slow = |stream: TcpStream| {
            std::thread::sleep(Duration::from_millis(20));
            echo(stream);
        };
        let mut given = workload(server(slow), Exchange::Echo(4));
        (given.rate, given.connections) = (Some(200.0), 1);
        let seen = run(&given).unwrap();
        assert!(seen.latency.max() > 100_000, "{seen:?}");
        assert!(seen.behind > 20, "{seen:?}");
    }
}
