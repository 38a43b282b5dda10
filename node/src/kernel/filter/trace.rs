//! What the filter is told to trace, and what it says then.

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use dts_core::trace::{TraceRecord, TraceSettings};

use super::{Ebpf, Filter, FilterError, Mutex, lock, map_error, take, take_map};
use crate::kernel::shared::{Raw, read_plain};

/// The maps of tracing. They are not pinned: a daemon that starts has its own, in which nothing is switched on.
pub(super) struct TraceMaps {
    settings: Mutex<Array<MapData, Raw<TraceSettings>>>,
    records: Mutex<RingBuf<MapData>>,
    missed: PerCpuArray<MapData, u64>,
}

impl TraceMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, FilterError> {
        Ok(Self {
            settings: take(ebpf, "TRACE")?,
            records: take(ebpf, "TRACES")?,
            missed: take_map(ebpf, "TRACES_MISSED")?,
        })
    }
}

impl Filter {
    /// Says what is to be traced, and until when.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the update.
    pub fn set_trace(&self, settings: &TraceSettings) -> Result<(), FilterError> {
        lock(&self.trace.settings)
            .set(0, Raw(*settings), 0)
            .map_err(map_error("TRACE"))
    }

    /// What is being traced at present: nothing, where `until` is 0.
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn trace(&self) -> Result<TraceSettings, FilterError> {
        let map = lock(&self.trace.settings);
        Ok(map.get(&0, 0).map_err(map_error("TRACE"))?.0)
    }

    /// Takes the records that there are, oldest first, up to `most`; how many it took.
    pub fn take_traces(&self, most: usize, mut each: impl FnMut(&TraceRecord)) -> usize {
        let mut records = lock(&self.trace.records);
        for taken in 0..most {
            let Some(bytes) = records.next() else {
                return taken;
            };
            match read_plain(&bytes) {
                Some(record) => each(&record),
                None => tracing::error!("a trace record of {} bytes from the filter", bytes.len()),
            }
        }
        most
    }

    /// How many records have found no room since the filter was loaded.
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn traces_missed(&self) -> Result<u64, FilterError> {
        let values = self.trace.missed.get(&0, 0);
        Ok(values.map_err(map_error("TRACES_MISSED"))?.iter().sum())
    }
}
