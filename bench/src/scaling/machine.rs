//! How busy nodes and machine are while a load runs.

use std::fs;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use dts_lab::{Lab, Place};

/// What was used in the time that counts.
pub(crate) struct Used {
    /// Cores that each node used.
    pub(crate) nodes: Vec<f64>,
    /// The part of the machine that was idle.
    pub(crate) idle: f64,
}

/// Looks at the beginning and at the end of the time that counts, beside the load.
pub(super) struct Machine(JoinHandle<anyhow::Result<Used>>);

impl Machine {
    /// Begins to watch: from `warm_up` on, for `duration`.
    pub(super) fn watch(
        lab: &Lab,
        places: &[Place],
        warm_up: Duration,
        duration: Duration,
    ) -> Self {
        let (name, places) = (lab.spec().name.clone(), places.to_vec());
        Self(std::thread::spawn(move || {
            let lab = Lab::open(&name)?;
            let look = || -> anyhow::Result<(Instant, Vec<Duration>, (u64, u64))> {
                let nodes = places.iter().map(|place| lab.cpu_time(*place));
                Ok((Instant::now(), nodes.collect::<Result<_, _>>()?, ticks()?))
            };
            std::thread::sleep(warm_up);
            let before = look()?;
            std::thread::sleep(duration);
            let after = look()?;
            let seconds = (after.0 - before.0).as_secs_f64();
            let nodes = after.1.iter().zip(&before.1);
            let all = after.2.1.saturating_sub(before.2.1).max(1);
            Ok(Used {
                nodes: nodes
                    .map(|(after, before)| after.saturating_sub(*before).as_secs_f64() / seconds)
                    .collect(),
                idle: after.2.0.saturating_sub(before.2.0) as f64 / all as f64,
            })
        }))
    }

    /// What was seen, when the time is over.
    pub(super) fn seen(self) -> anyhow::Result<Used> {
        self.0
            .join()
            .map_err(|_| anyhow!("the watching thread has failed"))?
    }
}

/// Idle and all clock ticks of the machine since its start (`proc(5)`).
fn ticks() -> anyhow::Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .into_iter()
        .flat_map(|line| line.split_whitespace().skip(1))
        // What is after these is counted in them.
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let idle = fields.iter().skip(3).take(2).sum();
    Ok((idle, fields.iter().sum()))
}
