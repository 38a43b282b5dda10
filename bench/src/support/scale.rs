//! The experiment's size: what of the paper's is divided, and by how much.

use anyhow::ensure;

/// The paper's run.
pub(super) const PAPER_SESSIONS: u32 = 1800;
const PAPER_SPEED: f64 = 1_000_000.0;
/// What an answer of the application server is padded to at least: its text must fit.
const LEAST_PAGE: u64 = 512;
/// Bytes of a download that a client takes at once.
const CHUNK: u64 = 64 << 10;
/// Bytes that a client's kernel takes before the client does.
const RECEIVE_BUFFER: u64 = 256 << 10;

/// Sizes, rates, memory and disks divided by one factor; times, counts and weights as they are.
///
/// With fewer sessions than the paper's, directories are fewer by the same share (the benchmark has a quarter of a
/// directory per session), and so are memory and the speed of the disks: what part of the files is in memory, and what part of
/// the time the disks work, stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) factor: u64,
    pub(super) sessions: u32,
    /// MB/s of a disk at the paper's size.
    pub(super) disk: f64,
    /// MiB of a node's memory at the paper's size.
    pub(super) memory_mib: u32,
}

impl Scale {
    /// A size that can be carried out.
    pub(super) fn new(
        factor: u64,
        sessions: u32,
        disk: f64,
        memory_mib: u32,
    ) -> anyhow::Result<Self> {
        ensure!((1..=256).contains(&factor), "a factor of 1 to 256");
        ensure!(
            (40..=PAPER_SESSIONS).contains(&sessions),
            "40 to {PAPER_SESSIONS} sessions"
        );
        ensure!(disk > 0.0 && disk < 1e6, "a disk's speed in MB/s");
        let scale = Self {
            factor,
            sessions,
            disk,
            memory_mib,
        };
        ensure!(
            scale.memory() >= 16 << 20,
            "{} MB of memory per node are too little for a server: a smaller factor, or more sessions",
            scale.memory() >> 20
        );
        Ok(scale)
    }

    /// A file's bytes.
    pub(super) fn bytes(&self, original: u64) -> u64 {
        (original / self.factor).max(1)
    }

    /// A dynamic page's bytes.
    pub(super) fn page_bytes(&self, original: u64) -> u64 {
        self.bytes(original).max(LEAST_PAGE)
    }

    /// A client's limit in bytes per second.
    pub(super) fn speed(&self) -> f64 {
        PAPER_SPEED / self.factor as f64
    }

    /// Bytes of a download that a client takes at once.
    pub(super) fn chunk(&self) -> u64 {
        self.bytes(CHUNK)
    }

    /// A client's receive buffer for a download; smaller ones don't hold a few segments.
    pub(super) fn receive_buffer(&self) -> usize {
        self.bytes(RECEIVE_BUFFER).max(8192) as usize
    }

    /// A node's memory for its server and page cache.
    pub(super) fn memory(&self) -> u64 {
        (f64::from(self.memory_mib) * 1_048_576.0 * self.share() / self.factor as f64) as u64
    }

    /// Bytes per second of a node's disk.
    pub(super) fn disk_speed(&self) -> u64 {
        (self.disk * 1e6 * self.share() / self.factor as f64) as u64
    }

    /// What part of the paper's load a node has.
    pub(super) fn share(&self) -> f64 {
        f64::from(self.sessions) / f64::from(PAPER_SESSIONS)
    }

    /// Bytes per second as they would be at the paper's size, in KB/s.
    pub(super) fn original_kbytes(&self, bytes_per_second: f64) -> f64 {
        bytes_per_second * self.factor as f64 / self.share() / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_divided_by_the_factor() {
        let scale = Scale::new(32, 1800, 64.0, 3072).unwrap();
        assert_eq!(scale.memory(), 96 << 20);
        assert_eq!(scale.disk_speed(), 2_000_000);
        assert_eq!(scale.speed(), 31_250.0);
        assert_eq!((scale.bytes(104_858), scale.bytes(30)), (3276, 1));
        assert_eq!((scale.page_bytes(18_000), scale.page_bytes(1)), (562, 512));
        assert_eq!((scale.chunk(), scale.receive_buffer()), (2048, 8192));
        assert_eq!(scale.original_kbytes(1000.0), 32.0);
    }

    #[test]
    fn fewer_sessions_have_smaller_nodes() {
        let scale = Scale::new(8, 450, 64.0, 3072).unwrap();
        assert_eq!(scale.memory(), 96 << 20);
        assert_eq!(scale.disk_speed(), 2_000_000);
        assert_eq!(scale.original_kbytes(1000.0), 32.0);
        assert!(Scale::new(256, 450, 64.0, 3072).is_err());
        assert!(Scale::new(0, 1800, 64.0, 3072).is_err());
        assert!(Scale::new(1, 1801, 64.0, 3072).is_err());
    }
}
