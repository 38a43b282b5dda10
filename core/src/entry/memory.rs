//! Memories of what was accepted once and must not be again: fingerprints with their times, in buckets of eight, of which
//! the oldest makes room.
//!
//! A memory loses what is old, never what is new, and takes something new for something known when forty bits of their
//! fingerprints are the same by accident.

/// How many fingerprints a bucket holds.
pub const BUCKET: usize = 8;

/// Fingerprints: their upper 40 bits, and below them when they were noted, in seconds of the monotonic clock; 0 is free.
pub type Bucket = [u64; BUCKET];

/// The bits of an entry that are a time.
const TIME: u64 = (1 << 24) - 1;

/// How many buckets each memory has: a power of two. 8 MiB.
pub const BUCKETS: u32 = 1 << 17;

/// The entry for a fingerprint that is noted at `now` (seconds).
#[inline(always)]
#[must_use]
pub const fn entry(print: u64, now: u64) -> u64 {
    print & !TIME | now & TIME
}

/// The two buckets for a fingerprint. The one that has more room takes it: so all of them fill up alike, and none overflows
/// long before the others.
///
/// The second one follows from bits that no entry has. So an entry says no less than forty bits of a fingerprint, whichever
/// bucket it is in.
#[inline(always)]
#[must_use]
pub const fn buckets(print: u64) -> [u32; 2] {
    let first = print as u32 & (BUCKETS - 1);
    let away = ((print >> 17) as u32 & 0x7f) << 1 | 1;
    [first, first ^ away << 9]
}

/// A place for a fingerprint in a bucket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its index, below [`BUCKET`].
    pub index: u32,
    /// How many places of the bucket have something that is to be known still.
    pub taken: u32,
}

/// The place for a fingerprint in one of its buckets: a free one, or the oldest. `None` when it was noted no longer than
/// `seconds` before `now`.
#[inline(always)]
#[must_use]
pub fn place(bucket: &Bucket, print: u64, now: u64, seconds: u64) -> Option<Place> {
    let (mut index, mut oldest, mut taken) = (0, 0, 0);
    let mut i = 0;
    while i < BUCKET {
        let noted = bucket[i];
        let age = match noted {
            0 => TIME + 1,
            _ => now.wrapping_sub(noted) & TIME,
        };
        if age <= seconds {
            if (noted ^ print) & !TIME == 0 {
                return None;
            }
            taken += 1;
        }
        if age > oldest {
            (index, oldest) = (i as u32, age);
        }
        i += 1;
    }
    Some(Place { index, taken })
}

/// Whether the place in a fingerprint's second bucket is taken, rather than that in its first: where there is more room.
#[inline(always)]
#[must_use]
pub const fn takes_second(first: Place, second: Place) -> bool {
    second.taken < first.taken
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::vec;

    const SECONDS: u64 = 64;

    fn note(bucket: &mut Bucket, print: u64, now: u64) {
        let place = place(bucket, print, now, SECONDS).expect("it is new");
        bucket[place.index as usize] = entry(print, now);
    }

    fn knows(bucket: &Bucket, print: u64, now: u64) -> bool {
        place(bucket, print, now, SECONDS).is_none()
    }

    proptest! {
        #[test]
        fn what_is_noted_is_known_for_its_time(print: u64, now in 1u64..1 << 40) {
            let mut bucket = Bucket::default();
            prop_assert!(!knows(&bucket, print, now));
            note(&mut bucket, print, now);
            for later in [0, 1, SECONDS] {
                prop_assert!(knows(&bucket, print, now + later));
            }
            prop_assert!(!knows(&bucket, print, now + SECONDS + 1));
        }

        #[test]
        fn other_fingerprints_are_not_known(print: u64, bit in 24u32..64, now in 1u64..1 << 40) {
            let mut bucket = Bucket::default();
            note(&mut bucket, print, now);
            prop_assert!(!knows(&bucket, print ^ 1 << bit, now));
        }

        #[test]
        fn the_two_buckets_are_two(print: u64) {
            let [first, second] = buckets(print);
            prop_assert!(first < BUCKETS && second < BUCKETS && first != second);
            prop_assert_eq!(buckets(print & TIME), [first, second], "of no entry's bits");
        }
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut bucket = Bucket::default();
        let print = |number: u64| number << 24;
        for number in 1..=9 {
            note(&mut bucket, print(number), 100 + number);
        }
        assert!(!knows(&bucket, print(1), 109));
        assert!((2..=9).all(|number| knows(&bucket, print(number), 109)));
    }

    /// What docs/limits.md and decision 25 say: fingerprints at a steady rate, for three times as long as each is to be known.
    #[test]
    fn nothing_is_lost_in_its_time_up_to_eight_thousand_a_second() {
        const RATE: u64 = 8000;
        let mut random = Random(7);
        let mut all = vec![Bucket::default(); BUCKETS as usize];
        let mut lost = 0;
        for now in 1..3 * SECONDS {
            for _ in 0..RATE {
                let print = random.next();
                let [first, second] = buckets(print).map(|index| index as usize);
                let [one, other] =
                    [first, second].map(|index| place(&all[index], print, now, SECONDS));
                let (one, other) = (one.expect("new"), other.expect("new"));
                let (bucket, place) = match takes_second(one, other) {
                    true => (second, other),
                    false => (first, one),
                };
                lost += u32::from(place.taken == BUCKET as u32);
                all[bucket][place.index as usize] = entry(print, now);
            }
        }
        assert_eq!(lost, 0);
    }

    /// SplitMix64 (Steele et al., 2014).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        }
    }
}
