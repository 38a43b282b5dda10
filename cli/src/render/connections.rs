//! `dts connections`.

use dts_node::admin::{ConnectionList, ConnectionView, OptionsView};

use super::table::{Align, Table};
use super::{duration, grouped};

/// A line for each connection, ordered by client; then how many there are.
pub(crate) fn connections(list: &ConnectionList) -> String {
    let mut sorted: Vec<&ConnectionView> = list.connections.iter().collect();
    sorted.sort_by_key(|connection| (connection.remote, connection.local, connection.role.name()));
    let mut table = Table::new([
        ("CLIENT", Align::Left),
        ("SERVICE", Align::Left),
        ("ROLE", Align::Left),
        ("STATE", Align::Left),
        ("PEER", Align::Left),
        ("IDLE", Align::Right),
        ("X", Align::Right),
        ("Y", Align::Right),
        ("SEQ DELTA", Align::Right),
        ("OPTIONS", Align::Left),
    ]);
    for connection in sorted {
        table.row([
            connection.remote.to_string(),
            service(connection),
            connection.role.name().to_owned(),
            connection.state.name().to_owned(),
            peer(connection),
            duration(connection.idle_ms),
            connection.client_isn.to_string(),
            known(connection.server_isn),
            known(connection.seq_delta),
            options(&connection.options),
        ]);
    }
    match table.is_empty() {
        true => format!("{}\n", count(list)),
        false => format!("{}\n{}\n", table.render(), count(list)),
    }
}

fn count(list: &ConnectionList) -> String {
    let shown = list.connections.len();
    let plural = if list.total == 1 { "" } else { "s" };
    match shown < list.total {
        true => format!(
            "{} of {} connections",
            grouped(shown as u64),
            grouped(list.total as u64)
        ),
        false => format!("{} connection{plural}", grouped(shown as u64)),
    }
}

fn service(connection: &ConnectionView) -> String {
    match &connection.service {
        Some(name) => name.clone(),
        None => connection.local.to_string(),
    }
}

fn peer(connection: &ConnectionView) -> String {
    match (connection.to_itself, connection.peer) {
        (true, _) => "itself".to_owned(),
        (false, Some(peer)) => peer.to_string(),
        (false, None) => "-".to_owned(),
    }
}

fn known(number: Option<u32>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// The options in short, as `ss -i` has them: `mss:1460 wscale:7,8/9 sack ts ecn`.
fn options(options: &OptionsView) -> String {
    let mss = options.mss.map(|mss| format!("mss:{mss}"));
    let scale = options.scale.map(|scale| {
        let own = scale.own.map(|own| format!("/{own}")).unwrap_or_default();
        format!("wscale:{},{}{own}", scale.client, scale.announced)
    });
    let flags = [
        (options.sack, "sack"),
        (options.timestamps, "ts"),
        (options.ecn, "ecn"),
    ];
    let flags = flags.iter().filter(|(set, _)| *set);
    let words: Vec<String> = mss
        .into_iter()
        .chain(scale)
        .chain(flags.map(|(_, name)| (*name).to_owned()))
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use dts_node::admin::{Role, ScaleView, State};

    use super::super::tests::plain;
    use super::*;

    fn sample(remote: &str) -> ConnectionView {
        ConnectionView {
            remote: remote.parse().unwrap(),
            local: "198.18.0.100:80".parse().unwrap(),
            role: Role::Inspecting,
            state: State::Inspect,
            service: Some("web".to_owned()),
            service_id: 3483,
            peer: None,
            peer_port: None,
            to_itself: false,
            options: OptionsView {
                mss: Some(1460),
                scale: Some(ScaleView {
                    client: 7,
                    announced: 8,
                    own: None,
                }),
                sack: true,
                timestamps: true,
                ecn: false,
            },
            idle_ms: 250,
            client_isn: 1000,
            server_isn: None,
            seq_delta: None,
            ts_delta: None,
            request_end: None,
        }
    }

    #[test]
    fn connections_are_listed_by_client() {
        let processing = ConnectionView {
            role: Role::Processing,
            state: State::Direct,
            service: None,
            peer: Some("198.18.1.11".parse().unwrap()),
            idle_ms: 61_000,
            server_isn: Some(4_294_967_295),
            seq_delta: Some(77),
            options: OptionsView {
                mss: None,
                scale: Some(ScaleView {
                    client: 7,
                    announced: 8,
                    own: Some(9),
                }),
                sack: false,
                timestamps: false,
                ecn: true,
            },
            ..sample("198.18.0.200:40001")
        };
        let itself = ConnectionView {
            to_itself: true,
            ..sample("198.18.0.9:1")
        };
        let list = ConnectionList {
            total: 12_000,
            connections: vec![processing, sample("198.18.0.200:40000"), itself],
        };
        insta::assert_snapshot!(plain(&connections(&list)), @r"
        CLIENT              SERVICE          ROLE        STATE    PEER              IDLE     X           Y  SEQ DELTA  OPTIONS
        198.18.0.9:1        web              inspecting  inspect  itself          250 ms  1000           -          -  mss:1460 wscale:7,8 sack ts
        198.18.0.200:40000  web              inspecting  inspect  -               250 ms  1000           -          -  mss:1460 wscale:7,8 sack ts
        198.18.0.200:40001  198.18.0.100:80  processing  direct   198.18.1.11  1 min 1 s  1000  4294967295         77  wscale:7,8/9 ecn

        3 of 12,000 connections
        ");
    }

    #[test]
    fn none_is_said_so() {
        let text = plain(&connections(&ConnectionList::default()));
        assert_eq!(text, "0 connections\n");
    }
}
