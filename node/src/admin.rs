//! What a daemon tells about itself, and how it is asked.
//!
//! A daemon listens on a Unix socket, [`Config::socket_path`](crate::config::Config::socket_path).
//! A connection carries one request and one answer, each a line of JSON; after that of `trace`, more lines:
//!
//! ```text
//! -> "status"                                        <- {"ok":{"version":"0.1.0", ...}}
//! -> {"ring":{"lookup":{"key":"/index.html"}}}       <- {"ok":{"epoch":3, ...}}
//! -> "nonsense"                                      <- {"error":"cannot understand the request: ..."}
//! ```
//!
//! [`Request`] lists the requests. A daemon refuses a request with a field that it doesn't know: an
//! old daemon must not answer another question than a new client asked. Answers may get more fields.
//!
//! Who may open the socket may ask: its mode is 0660, its owner the daemon's user. What is read and
//! written is limited in size and time, so a client that sends garbage, or nothing, costs little.
//!
//! [`serve`] is the daemon's side, [`Client`] the other; [`Claim`] makes sure that there is one
//! daemon per socket.

mod claim;
mod client;
mod protocol;
mod server;
mod view;

pub use claim::{Claim, ClaimError};
pub use client::{Client, ClientError, TraceReader};
pub use protocol::Request;
pub use server::{AdminSource, TraceFeed, serve};
pub use view::{
    Attach, ConnectionFilter, ConnectionList, ConnectionView, HandoverCounts, HandoverMode,
    InterfaceRole, InterfaceView, LeaseView, Lookup, MemberState, MemberView, Method, MethodView,
    OptionsView, OwnerView, PointView, ReloadReport, RingHashName, RingMemberView, RingQuery,
    RingView, Role, ScaleView, SegmentView, ServiceMode, ServiceView, State, StatsView, StatusView,
    TraceBeat, TraceLine, TraceQuery, TraceSegment, TraceStart, UndecidedView,
};

#[cfg(test)]
mod tests;
