//! One measurement: the users' load, and what the nodes' disks do meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dts_lab::{DiskWaits, Lab, Place, WaitSampler};
use rustix::time::{ClockId, clock_gettime};

use super::Method;
use super::engine::{self, Edge, Plan};
use super::qos::Tally;

/// How often is looked at the threads.
const LOOK: Duration = Duration::from_millis(50);
/// Misplaced downloads that are put up with, in percent: a node may have been busy when it was asked.
const MISPLACED_PERCENT: u64 = 1;

/// What was measured.
pub(super) struct Outcome {
    pub(super) method: Method,
    pub(super) repeat: u32,
    pub(super) seconds: f64,
    pub(super) tally: Tally,
    /// Bytes per second that each node read from its disk.
    pub(super) reads: Vec<f64>,
    /// Each node's threads that waited for it.
    pub(super) waits: Vec<DiskWaits>,
    /// Bytes of memory of each node's server and page cache after the caches were filled, and at the end.
    pub(super) filled: Vec<u64>,
    pub(super) memory: Vec<u64>,
    /// What part of a core the client used.
    pub(super) client: f64,
    /// What part of all cores was in use.
    pub(super) machine: f64,
}

/// Counters when the measurement begins.
struct Begin {
    at: Instant,
    reads: Vec<u64>,
    client: Duration,
    machine: Cores,
    sampler: WaitSampler,
}

/// Lets the users of `plan` do what they do.
pub(super) fn users(
    lab: &Lab,
    places: &[Place],
    plan: &Plan<'_>,
    method: Method,
    repeat: u32,
) -> anyhow::Result<Outcome> {
    let mut begin = None;
    let mut outcome = None;
    let mut edge = |edge| -> anyhow::Result<()> {
        match edge {
            Edge::Begin => begin = Some(Begin::now(lab, places)?),
            Edge::End => {
                let begin = begin.take().context("the measurement has not begun")?;
                outcome = Some(begin.until_now(lab, places)?);
            }
        }
        Ok(())
    };
    let tally = lab.within(Place::Client(1), || engine::run(plan, &mut edge))??;
    let mut outcome = outcome.context("the measurement has not ended")?;
    (outcome.method, outcome.repeat, outcome.tally) = (method, repeat, tally);
    Ok(outcome)
}

impl Begin {
    fn now(lab: &Lab, places: &[Place]) -> anyhow::Result<Self> {
        Ok(Self {
            reads: reads(lab, places)?,
            client: thread_time(),
            machine: Cores::now()?,
            sampler: lab.sample_disk_waits(places, LOOK)?,
            at: Instant::now(),
        })
    }

    fn until_now(self, lab: &Lab, places: &[Place]) -> anyhow::Result<Outcome> {
        let seconds = self.at.elapsed().as_secs_f64();
        let now = reads(lab, places)?;
        let rate = |(now, then): (&u64, &u64)| now.saturating_sub(*then) as f64 / seconds;
        Ok(Outcome {
            method: Method::L4,
            repeat: 0,
            seconds,
            tally: Tally::default(),
            reads: now.iter().zip(&self.reads).map(rate).collect(),
            client: (thread_time().saturating_sub(self.client)).as_secs_f64() / seconds,
            machine: Cores::now()?.used_since(self.machine),
            waits: self.sampler.stop(),
            filled: Vec::new(),
            memory: memory(lab, places)?,
        })
    }
}

impl Outcome {
    /// Fails when this is no measurement of what it should be.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Tally {
            downloads,
            pages,
            errors,
            by_node,
            misplaced,
            ..
        } = &self.tally;
        ensure!(
            downloads.total() > 0 && pages.total() > 0,
            "nothing was downloaded"
        );
        ensure!(
            (downloads.fail + pages.fail) * 2 <= downloads.total() + pages.total(),
            "more than half of the requests failed; errors: {errors:?}"
        );
        ensure!(
            by_node.iter().all(|count| *count > 0),
            "not every node served downloads: {by_node:?}"
        );
        ensure!(
            misplaced * 100 <= downloads.total() * MISPLACED_PERCENT,
            "{misplaced} of {} downloads came from other nodes than the rules say",
            downloads.total()
        );
        Ok(())
    }
}

/// Bytes of memory that each node's server and page cache use.
pub(super) fn memory(lab: &Lab, places: &[Place]) -> anyhow::Result<Vec<u64>> {
    let memory = places.iter().map(|place| lab.disk_memory(*place));
    Ok(memory.collect::<Result<_, _>>()?)
}

fn reads(lab: &Lab, places: &[Place]) -> anyhow::Result<Vec<u64>> {
    let reads = places.iter().map(|place| lab.disk_read_bytes(*place));
    Ok(reads.collect::<Result<_, _>>()?)
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Ticks of all cores since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cores {
    all: u64,
    idle: u64,
}

impl Cores {
    fn now() -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&stat).context("/proc/stat is not as expected")
    }

    fn parse(stat: &str) -> Option<Self> {
        // User, nice, system, idle, waiting for disks, interrupts, soft interrupts, stolen.
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        Some(Self {
            all: ticks.iter().sum(),
            idle: ticks.get(3)? + ticks.get(4)?,
        })
    }

    /// What part of them was in use.
    fn used_since(self, then: Self) -> f64 {
        let all = self.all.saturating_sub(then.all).max(1) as f64;
        1.0 - self.idle.saturating_sub(then.idle) as f64 / all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_of_cores_is_what_is_not_idle() {
        let then = Cores::parse("cpu  10 0 10 100 20 0 0 0 0 0\ncpu0 1\n").unwrap();
        assert_eq!((then.all, then.idle), (140, 120));
        let now = Cores::parse("cpu  40 0 40 130 30 0 0 0 7 7\n").unwrap();
        assert!((now.used_since(then) - 0.6).abs() < 1e-9);
        assert_eq!(Cores::parse("nothing"), None);
    }
}
