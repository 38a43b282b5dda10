//! The answers. All of them are plain data that reads the same in Rust and in JSON.

mod connection;
mod ring;
mod stats;
mod status;
mod trace;

pub use connection::{
    ConnectionFilter, ConnectionList, ConnectionView, OptionsView, Role, ScaleView, State,
};
pub use ring::{Lookup, OwnerView, PointView, RingHashName, RingMemberView, RingQuery, RingView};
pub use stats::StatsView;
pub use status::{
    Attach, HandoverCounts, HandoverMode, InterfaceRole, InterfaceView, LeaseView, MemberState,
    MemberView, Method, MethodView, ReloadReport, ServiceMode, ServiceView, StatusView,
    UndecidedView,
};
pub use trace::{SegmentView, TraceBeat, TraceLine, TraceQuery, TraceSegment, TraceStart};
