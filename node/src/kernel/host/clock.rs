//! The clocks that the filter and the daemon must agree on.

use rustix::time::{ClockId, Timespec, clock_gettime};

const SECOND: i128 = 1_000_000_000;

/// The monotonic clock in nanoseconds: `bpf_ktime_get_ns` to the filter.
pub fn monotonic_ns() -> u64 {
    let now = nanoseconds(clock_gettime(ClockId::Monotonic));
    u64::try_from(now).expect("the monotonic clock starts at 0 and takes 584 years to pass u64")
}

/// Unix time minus monotonic time, in seconds, rounded: what the filter, which has the monotonic
/// clock only, adds to it. Changes when the Unix clock is set.
pub fn unix_offset() -> i64 {
    let unix = nanoseconds(clock_gettime(ClockId::Realtime));
    let difference = unix - nanoseconds(clock_gettime(ClockId::Monotonic));
    i64::try_from((difference + SECOND / 2).div_euclid(SECOND))
        .expect("a difference of two 64-bit numbers of seconds this close to now")
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * SECOND + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn monotonic_time_plus_offset_is_unix_time() {
        let ours = (monotonic_ns() / 1_000_000_000) as i64 + unix_offset();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix = unix.expect("after 1970").as_secs() as i64;
        assert!((unix - ours).abs() <= 1, "{ours} instead of {unix}");
    }

    #[test]
    fn monotonic_time_goes_on() {
        let before = monotonic_ns();
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(monotonic_ns() >= before + 5_000_000);
    }
}
