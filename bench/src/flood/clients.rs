//! Legitimate clients: requests that are due at fixed times, whatever became of the earlier ones.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::Place;

/// When a client gives up.
const PATIENCE: Duration = Duration::from_secs(3);
/// The length of the files.
pub(super) const BODY: usize = 1024;
/// The threads' stacks: a thread does little.
const STACK: usize = 256 << 10;

/// What clients ask for.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) to: SocketAddr,
    /// Whose files are asked for, in turn.
    pub(super) nodes: Vec<Place>,
    pub(super) per_second: u32,
    pub(super) duration: Duration,
}

/// What became of the requests.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) tried: u64,
    /// Of the right answers: microseconds from when a request's connection was due to the first byte.
    pub(super) first_bytes: Vec<f64>,
    /// How often there was no right answer, by why.
    pub(super) failures: BTreeMap<String, u64>,
}

impl Outcome {
    /// The share of right answers, in percent.
    pub(super) fn success(&self) -> f64 {
        self.first_bytes.len() as f64 * 100.0 / self.tried.max(1) as f64
    }

    /// The time within which this share of the right answers began, in microseconds.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.first_bytes.clone();
        sorted.sort_by(f64::total_cmp);
        let index = (sorted.len() as f64 * share).ceil() as usize;
        let index = index.saturating_sub(1);
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }
}

/// Makes the requests from the thread's namespace.
pub(super) fn ask(load: &Load) -> std::io::Result<Outcome> {
    let count = (load.duration.as_secs_f64() * f64::from(load.per_second)) as u64;
    // As many threads as requests can be under way: none of them waits for a thread.
    let threads = (u64::from(load.per_second) * (PATIENCE.as_secs() + 1)).min(count);
    let outcome = Mutex::new(Outcome::default());
    let next = AtomicU64::new(0);
    let begin = Instant::now() + Duration::from_millis(100);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let due = begin + Duration::from_secs_f64(number as f64 / f64::from(load.per_second));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let node = load.nodes[number as usize % load.nodes.len()];
            let result = one(load.to, node, due);
            let Ok(mut outcome) = outcome.lock() else {
                return;
            };
            outcome.tried += 1;
            match result {
                Ok(first) => outcome.first_bytes.push(first.as_secs_f64() * 1e6),
                Err(why) => *outcome.failures.entry(why).or_default() += 1,
            }
        }
    };
    thread::scope(|scope| -> std::io::Result<()> {
        for _ in 0..threads {
            let thread = thread::Builder::new().stack_size(STACK);
            thread.spawn_scoped(scope, work)?;
        }
        Ok(())
    })?;
    Ok(outcome
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// One request, which must be answered whole and by the right node: when its answer began, since it was due.
fn one(to: SocketAddr, node: Place, due: Instant) -> Result<Duration, String> {
    let left = || {
        let left = (due + PATIENCE).saturating_duration_since(Instant::now());
        left.max(Duration::from_millis(1))
    };
    let why = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("{what}: too late"),
            kind => format!("{what}: {kind}"),
        }
    };
    let mut stream = TcpStream::connect_timeout(&to, left()).map_err(why("connect"))?;
    let request = format!("GET /{node}/1k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(why("send"))?;
    let mut response = Vec::new();
    let mut first = None;
    loop {
        if due.elapsed() > PATIENCE {
            return Err("answer: too late".to_owned());
        }
        stream
            .set_read_timeout(Some(left()))
            .map_err(why("answer"))?;
        let mut part = [0; 4096];
        let length = stream.read(&mut part).map_err(why("answer"))?;
        first.get_or_insert_with(|| due.elapsed());
        if length == 0 {
            break;
        }
        response.extend_from_slice(&part[..length]);
    }
    match (is_right(&response, node), first) {
        (true, Some(first)) => Ok(first),
        _ => Err("answer: not the right one".to_owned()),
    }
}

/// Whether a response is the node's, and whole.
fn is_right(response: &[u8], node: Place) -> bool {
    let Some(end) = response.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&response[..end]);
    let named = format!("X-DTS-Node: {node}");
    head.starts_with("HTTP/1.1 200")
        && head.lines().any(|line| line == named)
        && response.len() - end - 4 == BODY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_looked_at() {
        let response = |node: &str, length| {
            let head = format!("HTTP/1.1 200 OK\r\nX-DTS-Node: {node}\r\n\r\n");
            [head.as_bytes(), &vec![b'x'; length]].concat()
        };
        let n1 = Place::Node(1);
        assert!(is_right(&response("n1", BODY), n1));
        assert!(!is_right(&response("n2", BODY), n1));
        assert!(!is_right(&response("n11", BODY), n1));
        assert!(!is_right(&response("n1", BODY - 1), n1));
        assert!(!is_right(b"HTTP/1.1 200 OK\r\n", n1));
    }

    #[test]
    fn quantiles_are_of_the_right_answers() {
        let outcome = Outcome {
            tried: 8,
            first_bytes: vec![3.0, 1.0, 2.0, 4.0],
            ..Outcome::default()
        };
        assert_eq!(outcome.success(), 50.0);
        assert_eq!(outcome.quantile(0.5), 2.0);
        assert_eq!(outcome.quantile(0.99), 4.0);
        assert!(Outcome::default().quantile(0.5).is_nan());
    }
}
