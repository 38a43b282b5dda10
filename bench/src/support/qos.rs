//! Quality of service: what was good, tolerable or neither, and how often.

use std::collections::BTreeMap;
use std::time::Duration;

/// What a page may take, with its images.
const PAGE_GOOD: Duration = Duration::from_secs(3);
const PAGE_TOLERABLE: Duration = Duration::from_secs(5);
/// How much of the client's limit a download must reach on average.
const DOWNLOAD_GOOD: f64 = 0.99;
const DOWNLOAD_TOLERABLE: f64 = 0.95;

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grade {
    Good,
    Tolerable,
    Fail,
}

/// A page that was complete after so long.
pub(super) fn of_page(taken: Duration) -> Grade {
    match taken {
        taken if taken <= PAGE_GOOD => Grade::Good,
        taken if taken <= PAGE_TOLERABLE => Grade::Tolerable,
        _ => Grade::Fail,
    }
}

/// A download of so many bytes that was complete after so long; `limit` in bytes per second.
pub(super) fn of_download(bytes: u64, taken: Duration, limit: f64) -> Grade {
    let speed = bytes as f64 / taken.as_secs_f64().max(1e-9);
    match speed / limit {
        part if part >= DOWNLOAD_GOOD => Grade::Good,
        part if part >= DOWNLOAD_TOLERABLE => Grade::Tolerable,
        _ => Grade::Fail,
    }
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grades {
    pub(super) good: u64,
    pub(super) tolerable: u64,
    pub(super) fail: u64,
}

impl Grades {
    /// Counts one.
    pub(super) fn add(&mut self, grade: Grade) {
        match grade {
            Grade::Good => self.good += 1,
            Grade::Tolerable => self.tolerable += 1,
            Grade::Fail => self.fail += 1,
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.good + self.tolerable + self.fail
    }

    /// Percent of them.
    pub(super) fn failed_percent(&self) -> f64 {
        self.fail as f64 * 100.0 / self.total().max(1) as f64
    }
}

/// What a client counts during a measurement.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Table 3's two kinds. A page counts with its images.
    pub(super) downloads: Grades,
    pub(super) pages: Grades,
    /// The pages' own requests, without images.
    pub(super) dynamic: Grades,
    pub(super) images: u64,
    /// Of all requests, what went wrong, and how often: no answer, or a wrong one.
    pub(super) errors: BTreeMap<String, u64>,
    /// Downloads that were not complete at the end, and too late already. They count as failures.
    pub(super) late: u64,
    /// Bytes of downloads.
    pub(super) bytes: u64,
    /// Downloads that each node answered, `n1` first.
    pub(super) by_node: [u64; 4],
    /// Downloads that another node answered than the rules say.
    pub(super) misplaced: u64,
    /// Times of pages with their images, in milliseconds.
    pub(super) page_times: Vec<u32>,
}

impl Tally {
    /// Counts an error under its kind.
    pub(super) fn error(&mut self, what: &str) {
        // Bounded: a server that says something new each time must not fill the memory.
        let full = self.errors.len() >= 20 && !self.errors.contains_key(what);
        let what = if full { "others" } else { what };
        *self.errors.entry(what.to_owned()).or_default() += 1;
    }

    /// Milliseconds that so many percent of the pages took at most.
    pub(super) fn page_percentile(&self, percent: f64) -> f64 {
        let mut times = self.page_times.clone();
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        let index = (last as f64 * percent / 100.0).round() as usize;
        times.get(index).map_or(f64::NAN, |t| f64::from(*t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_graded_by_time() {
        let grade = |seconds| of_page(Duration::from_secs_f64(seconds));
        assert_eq!(grade(3.0), Grade::Good);
        assert_eq!(grade(3.001), Grade::Tolerable);
        assert_eq!(grade(5.0), Grade::Tolerable);
        assert_eq!(grade(5.001), Grade::Fail);
    }

    #[test]
    fn downloads_are_graded_by_mean_speed() {
        // The paper's: 990 and 950 kB/s of 1 MB/s.
        let grade = |kilobytes: f64| {
            let taken = Duration::from_secs_f64(1e6 / (kilobytes * 1e3));
            of_download(1_000_000, taken, 1e6)
        };
        assert_eq!(grade(1000.0), Grade::Good);
        assert_eq!(grade(990.1), Grade::Good);
        assert_eq!(grade(989.9), Grade::Tolerable);
        assert_eq!(grade(950.1), Grade::Tolerable);
        assert_eq!(grade(949.9), Grade::Fail);
        assert_eq!(of_download(1, Duration::ZERO, 1e6), Grade::Good);
    }

    #[test]
    fn grades_and_errors_are_counted() {
        let mut grades = Grades::default();
        for grade in [Grade::Good, Grade::Good, Grade::Tolerable, Grade::Fail] {
            grades.add(grade);
        }
        assert_eq!((grades.total(), grades.failed_percent()), (4, 25.0));
        let mut tally = Tally::default();
        (0..100).for_each(|n| tally.error(&n.to_string()));
        assert_eq!(tally.errors.len(), 21);
        assert_eq!(tally.errors["others"], 80);
        tally.page_times = vec![30, 10, 20];
        assert_eq!(tally.page_percentile(50.0), 20.0);
        assert!(Tally::default().page_percentile(50.0).is_nan());
    }
}
