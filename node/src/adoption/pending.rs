//! A request as far as it has come: the client's segments put together, none of them acknowledged.

use dts_core::seq::Seq;

/// What a segment has brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// There is more to read, or the client's end.
    More,
    /// Something is missing before it.
    Gap,
    /// Nothing new.
    Nothing,
}

/// The client's bytes from the first one on.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// The sequence number of the first byte.
    first: Seq,
    /// The bytes, with gaps of zeros.
    bytes: Vec<u8>,
    /// Which of them are there: beginnings and ends, ascending; none touches the next.
    there: Vec<(usize, usize)>,
    /// How long the request is, when the client has closed its side.
    end: Option<usize>,
    /// No byte from this distance on is taken.
    most: usize,
}

impl Pending {
    /// A request whose first byte has this sequence number, of `most` bytes at the most.
    #[must_use]
    pub(super) fn new(first: Seq, most: usize) -> Self {
        Self {
            first,
            most,
            ..Self::default()
        }
    }

    /// The bytes that are there without a gap.
    #[must_use]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.whole()]
    }

    fn whole(&self) -> usize {
        match self.there.first() {
            Some((0, end)) => *end,
            _ => 0,
        }
    }

    /// Whether the client has closed its side, and all before that is there.
    #[must_use]
    pub(super) fn is_ended(&self) -> bool {
        self.end == Some(self.whole())
    }

    /// What lies behind a gap: first sequence number and the one after the last, the earliest first.
    pub(super) fn early(&self) -> impl Iterator<Item = (Seq, Seq)> + '_ {
        let at = |distance: usize| self.first.plus(distance as u32);
        let behind = self.there.iter().filter(|(begin, _)| *begin != 0);
        behind.map(move |(begin, end)| (at(*begin), at(*end)))
    }

    /// How many bytes are held in all, those in gaps included.
    #[must_use]
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Takes a segment's data, which begins at `seq`; `fin` when the client's side ends with it.
    ///
    /// What is there already is left as it is, so that nobody can change it later. What lies before the first byte, or
    /// beyond the limit, is ignored.
    pub(super) fn insert(&mut self, seq: Seq, data: &[u8], fin: bool) -> Progress {
        let begin = seq.since(self.first) as usize;
        if begin > self.most {
            return Progress::Nothing;
        }
        let whole = begin + data.len() <= self.most;
        let data = &data[..data.len().min(self.most - begin)];
        let end = begin + data.len();
        let (before, ended) = (self.whole(), self.is_ended());
        if fin && whole && self.end.is_none() {
            self.end = Some(end);
        }
        self.fill(begin, data);
        if self.whole() > before || self.is_ended() != ended {
            Progress::More
        } else if begin > self.whole() {
            Progress::Gap
        } else {
            Progress::Nothing
        }
    }

    /// Puts `data` where nothing is yet.
    fn fill(&mut self, begin: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = begin + data.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        let mut at = begin;
        for (from, to) in self.there.iter().copied().chain([(end, end)]) {
            let until = from.clamp(at, end);
            self.bytes[at..until].copy_from_slice(&data[at - begin..until - begin]);
            at = at.max(to.min(end)).max(until);
        }
        self.there.push((begin, end));
        self.there.sort_unstable();
        let mut joined: Vec<(usize, usize)> = Vec::with_capacity(self.there.len());
        for (from, to) in self.there.drain(..) {
            match joined.last_mut() {
                Some(last) if last.1 >= from => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        self.there = joined;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The byte that a request has at this distance.
    fn byte(distance: usize) -> u8 {
        (distance * 7 + distance / 256) as u8
    }

    fn part(from: usize, to: usize) -> Vec<u8> {
        (from..to).map(byte).collect()
    }

    proptest! {
        #[test]
        fn any_order_and_overlap_makes_the_request(
            first: u32,
            cuts in prop::collection::vec((0usize..600, 1usize..200), 1..60),
            fin: bool,
        ) {
            let mut pending = Pending::new(Seq(first), 500);
            let mut there = [false; 500];
            for (from, len) in cuts {
                let to = from + len;
                let last = fin && (from..=to).contains(&500) && to == 500;
                pending.insert(Seq(first).plus(from as u32), &part(from, to), last);
                (from..to.min(500)).for_each(|i| there[i] = true);
                let whole = there.iter().take_while(|t| **t).count();
                prop_assert_eq!(pending.bytes(), part(0, whole));
                let behind: usize = pending.early().map(|(a, b)| b.since(a) as usize).sum();
                let expected = there.iter().skip(whole).filter(|t| **t).count();
                prop_assert_eq!(behind, expected);
                prop_assert!(pending.held() <= 500);
            }
        }

        #[test]
        fn bytes_stay_what_they_were(first: u32, len in 1usize..100, from in 0usize..100) {
            let mut pending = Pending::new(Seq(first), 1000);
            pending.insert(Seq(first), &part(0, len), false);
            pending.insert(Seq(first).plus(from as u32), &[0xff; 50], false);
            prop_assert_eq!(&pending.bytes()[..len], part(0, len));
        }
    }

    #[test]
    fn progress_is_told() {
        let at = |n| Seq(u32::MAX - 2).plus(n);
        let mut pending = Pending::new(at(0), 100);
        assert_eq!(pending.insert(at(5), &part(5, 8), false), Progress::Gap);
        assert_eq!(pending.early().collect::<Vec<_>>(), [(at(5), at(8))]);
        assert_eq!(pending.insert(at(0), &part(0, 5), false), Progress::More);
        assert_eq!(pending.bytes().len(), 8);
        assert_eq!(pending.insert(at(0), &part(0, 8), false), Progress::Nothing);
        assert_eq!(pending.insert(at(8), &[], true), Progress::More);
        assert!(pending.is_ended());
        assert_eq!(pending.insert(at(8), &[], true), Progress::Nothing);
    }

    #[test]
    fn what_is_out_of_reach_is_ignored() {
        let mut pending = Pending::new(Seq(10), 4);
        assert_eq!(pending.insert(Seq(9), &[1, 2], false), Progress::Nothing);
        assert_eq!(pending.insert(Seq(100), &[1], false), Progress::Nothing);
        assert_eq!(pending.insert(Seq(10), &part(0, 9), true), Progress::More);
        assert_eq!((pending.bytes().len(), pending.is_ended()), (4, false));
    }
}
