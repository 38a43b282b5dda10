//! Connections that the filter keeps an entry of.

use std::net::{IpAddr, SocketAddr};

use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::adoption::{Adoption, stage};
use dts_core::entry::{ConnEntry, ConnKey, flag, role, state};
use dts_core::handover::{AGREED_ECN, AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS};
use serde::{Deserialize, Serialize};

/// The most connections in one answer, so that an answer has a size that client and daemon can hold.
const MAX_LIMIT: usize = 100_000;

/// Which connections are asked for: those that fit everything given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionFilter {
    /// The service's name.
    pub service: Option<String>,
    /// The client's address.
    pub remote: Option<IpAddr>,
    /// The node's role.
    pub role: Option<Role>,
    /// The entry's state.
    pub state: Option<State>,
    /// How many at most; 100,000 when absent, and never more.
    pub limit: Option<usize>,
}

impl ConnectionFilter {
    /// Picks what was asked for, in the given order.
    pub fn pick(&self, connections: impl IntoIterator<Item = ConnectionView>) -> ConnectionList {
        let limit = self.limit.unwrap_or(MAX_LIMIT).min(MAX_LIMIT);
        let mut list = ConnectionList::default();
        for connection in connections {
            if self.fits(&connection) {
                list.total += 1;
                if list.connections.len() < limit {
                    list.connections.push(connection);
                }
            }
        }
        list
    }

    fn fits(&self, connection: &ConnectionView) -> bool {
        self.service
            .as_ref()
            .is_none_or(|service| connection.service.as_ref() == Some(service))
            && self
                .remote
                .is_none_or(|remote| connection.remote.ip() == remote.to_canonical())
            && self.role.is_none_or(|role| connection.role == role)
            && self.state.is_none_or(|state| connection.state == state)
    }
}

/// Answer to `connections`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionList {
    /// How many fit the filter.
    pub total: usize,
    /// As many of them as the limit allows.
    pub connections: Vec<ConnectionView>,
}

/// A connection, seen from one node in one role. A node that handed a connection to itself has two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionView {
    /// The client's end.
    pub remote: SocketAddr,
    /// The service's end.
    pub local: SocketAddr,
    /// This node's part.
    pub role: Role,
    /// How far the connection is.
    pub state: State,
    /// The service's name; `None` when the node's configuration has it no more.
    pub service: Option<String>,
    /// The service's number in handovers.
    pub service_id: u16,
    /// The other node of the handover; `None` before there is one.
    pub peer: Option<IpAddr>,
    /// The inspecting node's port of the handover; `None` before there is one.
    pub peer_port: Option<u16>,
    /// Whether the node hands the connection to itself.
    pub to_itself: bool,
    /// What was agreed with the client.
    pub options: OptionsView,
    /// Time since the last packet, in milliseconds; of an adopted connection, since its beginning.
    pub idle_ms: u64,
    /// x: the client's initial sequence number.
    pub client_isn: u32,
    /// y: the inspecting node's initial sequence number, once known.
    pub server_isn: Option<u32>,
    /// What is added to this node's own sequence numbers, once known; y - w on the processing node.
    pub seq_delta: Option<u32>,
    /// What is added to the server's timestamps, once known.
    pub ts_delta: Option<u32>,
    /// The sequence number after the request, once known.
    pub request_end: Option<u32>,
}

/// A node's part in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It accepted the connection and read its request.
    Inspecting,
    /// Its server has the connection.
    Processing,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 2] = [Self::Inspecting, Self::Processing];

    /// The name in the command's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inspecting => "inspecting",
            Self::Processing => "processing",
        }
    }
}

/// How far a connection is; see [`dts_core::entry::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Inspecting: the inspector has it.
    Inspect,
    /// Inspecting: the processing node has answered.
    Frozen,
    /// Inspecting: it is on its processing node.
    Placed,
    /// Processing: the request is arriving.
    Handing,
    /// Processing: server and client talk to each other.
    Direct,
    /// Inspecting: the inspector has it, and nothing is acknowledged yet.
    Undecided,
    /// Processing: the server's socket was made of the client's own segment.
    Adopted,
    /// None of these: the entry is another version's, or being written.
    Unknown,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Inspect,
        Self::Frozen,
        Self::Placed,
        Self::Handing,
        Self::Direct,
        Self::Undecided,
        Self::Adopted,
        Self::Unknown,
    ];

    /// The name in the command's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inspect => state::name(state::INSPECT),
            Self::Frozen => state::name(state::FROZEN),
            Self::Placed => state::name(state::PLACED),
            Self::Handing => state::name(state::HANDING),
            Self::Direct => state::name(state::DIRECT),
            Self::Undecided => "undecided",
            Self::Adopted => "adopted",
            Self::Unknown => "unknown",
        }
    }
}

impl From<u32> for State {
    /// From [`ConnEntry::state`].
    fn from(number: u32) -> Self {
        match number {
            state::INSPECT => Self::Inspect,
            state::FROZEN => Self::Frozen,
            state::PLACED => Self::Placed,
            state::HANDING => Self::Handing,
            state::DIRECT => Self::Direct,
            _ => Self::Unknown,
        }
    }
}

/// The TCP options agreed with the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionsView {
    /// The client's maximum segment size in bytes, if it sent one.
    pub mss: Option<u16>,
    /// Window scales, if scaling was agreed (RFC 7323 §2).
    pub scale: Option<ScaleView>,
    /// Whether selective acknowledgment was agreed (RFC 2018).
    pub sack: bool,
    /// Whether timestamps were agreed (RFC 7323 §3).
    pub timestamps: bool,
    /// Whether ECN was agreed (RFC 3168).
    pub ecn: bool,
}

/// Window scales: by how many bits a window field is shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleView {
    /// The client's.
    pub client: u8,
    /// What the client was told.
    pub announced: u8,
    /// The processing node's server's own, where that is known.
    pub own: Option<u8>,
}

impl ConnectionView {
    /// Describes an entry of the filter's.
    ///
    /// `now` is the clock of [`ConnEntry::used_at`], in milliseconds; `service` is the name of the
    /// service that [`ConnEntry::service`] is the number of.
    pub fn new(key: &ConnKey, entry: &ConnEntry, service: Option<&str>, now: u32) -> Self {
        let role = match key.role {
            role::INSPECTING => Role::Inspecting,
            _ => Role::Processing,
        };
        let answered = entry.has(flag::ANSWERED);
        let (isn_known, delta_known) = match role {
            Role::Inspecting => (answered, entry.peer_port != 0),
            // y came with the handover.
            Role::Processing => (true, answered),
        };
        let translates_time = role == Role::Processing && answered && entry.timestamps();
        Self {
            remote: SocketAddr::new(key.flow.remote.into(), key.flow.remote_port),
            local: SocketAddr::new(key.flow.local.into(), key.flow.local_port),
            role,
            state: entry.state.into(),
            service: service.map(str::to_owned),
            service_id: entry.service,
            peer: (entry.peer != Addr::default()).then(|| entry.peer.into()),
            peer_port: (entry.peer_port != 0).then_some(entry.peer_port),
            to_itself: entry.has(flag::SELF),
            options: OptionsView::new(entry, role),
            idle_ms: idle(now, entry.used_at),
            client_isn: entry.client_isn.0,
            server_isn: isn_known.then_some(entry.server_isn.0),
            seq_delta: delta_known.then_some(entry.seq_delta),
            ts_delta: translates_time.then_some(entry.ts_delta),
            request_end: entry.has(flag::REQUEST_END).then_some(entry.request_end.0),
        }
    }
}

impl ConnectionView {
    /// A connection that is being or has been adopted, of the service with this name and number; `now` is the monotonic
    /// clock in milliseconds, `announced_scale` what the filter tells clients.
    pub fn adopted(
        flow: &FlowKey,
        known: &Adoption,
        (service, service_id): (Option<&str>, u16),
        (announced_scale, now): (u8, u32),
    ) -> Self {
        let terms = known.terms();
        let has = |agreed| terms.agreed & agreed != 0;
        let undecided = known.stage == stage::UNDECIDED;
        Self {
            remote: SocketAddr::new(flow.remote.into(), flow.remote_port),
            local: SocketAddr::new(flow.local.into(), flow.local_port),
            role: if undecided {
                Role::Inspecting
            } else {
                Role::Processing
            },
            state: if undecided {
                State::Undecided
            } else {
                State::Adopted
            },
            service: service.map(str::to_owned),
            service_id,
            peer: None,
            peer_port: None,
            to_itself: false,
            options: OptionsView {
                mss: Some(terms.mss),
                scale: has(AGREED_SCALE).then_some(ScaleView {
                    client: terms.client_scale,
                    announced: announced_scale,
                    own: None,
                }),
                sack: has(AGREED_SACK),
                timestamps: has(AGREED_TIMESTAMPS),
                ecn: has(AGREED_ECN),
            },
            idle_ms: idle(now, known.since),
            client_isn: known.client_isn.0,
            server_isn: Some(known.server_isn.0),
            seq_delta: None,
            ts_delta: None,
            request_end: None,
        }
    }
}

impl OptionsView {
    fn new(entry: &ConnEntry, role: Role) -> Self {
        Self {
            mss: (entry.client_mss != 0).then_some(entry.client_mss),
            scale: entry.scaling().then_some(ScaleView {
                client: entry.client_scale,
                announced: entry.announced_scale,
                own: (role == Role::Processing).then_some(entry.own_scale),
            }),
            sack: entry.sack(),
            timestamps: entry.timestamps(),
            ecn: entry.ecn(),
        }
    }
}

/// Milliseconds from `used_at` to `now` on a clock that wraps; 0 when a packet came in between.
fn idle(now: u32, used_at: u32) -> u64 {
    let elapsed = now.wrapping_sub(used_at);
    if elapsed > u32::MAX / 2 {
        0
    } else {
        u64::from(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use dts_core::seq::Seq;

    use super::*;

    fn key(role: u32) -> ConnKey {
        ConnKey {
            flow: FlowKey {
                remote: Addr::v4([198, 18, 0, 200]),
                local: Addr::v4([198, 18, 0, 100]),
                remote_port: 40000,
                local_port: 80,
            },
            role,
        }
    }

    fn entry() -> ConnEntry {
        ConnEntry {
            state: state::INSPECT,
            client_isn: Seq(1000),
            server_isn: Seq(5000),
            seq_delta: 77,
            ts_delta: 88,
            used_at: 10_000,
            service: 3483,
            ..ConnEntry::default()
        }
    }

    #[test]
    fn what_is_not_known_yet_is_absent() {
        let view = ConnectionView::new(&key(role::INSPECTING), &entry(), Some("web"), 10_250);
        assert_eq!(view.remote.to_string(), "198.18.0.200:40000");
        assert_eq!((view.role, view.state), (Role::Inspecting, State::Inspect));
        assert_eq!((view.idle_ms, view.client_isn), (250, 1000));
        assert_eq!((view.peer, view.peer_port), (None, None));
        assert_eq!(
            (view.server_isn, view.seq_delta, view.ts_delta),
            (None, None, None)
        );
        assert_eq!((view.options.mss, view.options.scale), (None, None));
    }

    #[test]
    fn a_processing_node_shows_its_translation() {
        let entry = ConnEntry {
            state: state::DIRECT,
            flags: AGREED_SACK | AGREED_SCALE | AGREED_TIMESTAMPS | flag::ANSWERED | flag::SELF,
            client_scale: 7,
            announced_scale: 8,
            own_scale: 9,
            client_mss: 1460,
            peer: Addr::v4([198, 18, 1, 11]),
            peer_port: 33000,
            ..entry()
        };
        let view = ConnectionView::new(&key(role::PROCESSING), &entry, None, 10_000);
        assert_eq!(
            (view.server_isn, view.seq_delta, view.ts_delta),
            (Some(5000), Some(77), Some(88))
        );
        assert_eq!(view.peer, Some("198.18.1.11".parse().unwrap()));
        let scale = ScaleView {
            client: 7,
            announced: 8,
            own: Some(9),
        };
        assert_eq!(
            (view.options.mss, view.options.scale),
            (Some(1460), Some(scale))
        );
        assert!(view.to_itself && view.options.sack && !view.options.ecn);
    }

    #[test]
    fn the_clock_may_wrap_and_a_packet_may_come_meanwhile() {
        assert_eq!(idle(5, u32::MAX - 4), 10);
        assert_eq!(idle(1000, 1001), 0);
    }

    #[test]
    fn states_have_the_names_of_the_core() {
        for number in 0..7 {
            assert_eq!(State::from(number).name(), state::name(number));
        }
        for state in State::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for role in Role::ALL {
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
    }

    #[test]
    fn a_filter_picks_what_fits_all_of_it_and_counts_beyond_the_limit() {
        let views: Vec<_> = [role::INSPECTING, role::PROCESSING, role::PROCESSING]
            .map(|role| ConnectionView::new(&key(role), &entry(), Some("web"), 0))
            .into();
        let picked = |filter: ConnectionFilter| {
            let list = filter.pick(views.clone());
            (list.total, list.connections.len())
        };
        let all = ConnectionFilter::default;
        assert_eq!(picked(all()), (3, 3));
        assert_eq!(
            picked(ConnectionFilter {
                limit: Some(1),
                ..all()
            }),
            (3, 1)
        );
        let processing = Some(Role::Processing);
        assert_eq!(
            picked(ConnectionFilter {
                role: processing,
                ..all()
            }),
            (2, 2)
        );
        let other = Some("mail".to_owned());
        assert_eq!(
            picked(ConnectionFilter {
                service: other,
                ..all()
            }),
            (0, 0)
        );
        let direct = Some(State::Direct);
        assert_eq!(
            picked(ConnectionFilter {
                state: direct,
                ..all()
            }),
            (0, 0)
        );
        let mapped = Some("::ffff:198.18.0.200".parse().unwrap());
        assert_eq!(
            picked(ConnectionFilter {
                remote: mapped,
                ..all()
            }),
            (3, 3)
        );
    }
}
