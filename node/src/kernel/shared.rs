//! The layouts shared with the filter, as the map types want them.

use dts_core::addr::Addr;
use dts_core::addr::FlowKey;
use dts_core::entry::adoption::{
    Adoption, CookieKey, Inquiry, NodeSet, RequestRing, RuleHost, RulePath, Target,
};
use dts_core::entry::{
    ConnEntry, ConnKey, Handover, NodeSettings, PeerKey, RingState, ServiceAddr, ServiceEntry,
    ServiceKey, SweepRecord,
};
use dts_core::ring::RingPoint;
use dts_core::trace::{TraceRecord, TraceSettings};

/// A type whose every bit pattern of the right size is a value, and that has no padding.
///
/// # Safety
///
/// The implementor is `repr(C)` or `repr(transparent)`, made of integers and byte arrays only, and has
/// no padding.
pub(super) unsafe trait Plain: Copy + 'static {}

/// A plain value in a map.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: `Plain` promises what `Pod` asks for, and `Raw` is transparent.
unsafe impl<T: Plain> aya::Pod for Raw<T> {}

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            // SAFETY: `repr(C)`, integers and byte arrays only; `dts_core` asserts the sizes,
            // which are the sums of the fields' sizes.
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(
    Addr,
    Adoption,
    CookieKey,
    Inquiry,
    NodeSet,
    RequestRing,
    RuleHost,
    RulePath,
    Target,
    ConnEntry,
    ConnKey,
    FlowKey,
    Handover,
    NodeSettings,
    PeerKey,
    RingPoint,
    RingState,
    ServiceAddr,
    ServiceEntry,
    ServiceKey,
    SweepRecord,
    TraceRecord,
    TraceSettings
);

/// The bytes of a plain value.
pub(super) fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: a plain value has no padding: all its bytes are initialized.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The plain value in the first bytes of `bytes`; `None` when there are too few.
pub(super) fn read_plain<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: there are enough bytes, any pattern is a value, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
