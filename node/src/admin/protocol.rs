//! Requests and answers, each one line of JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::view::{ConnectionFilter, RingQuery, TraceQuery};

/// The longest request in bytes, its line end included.
pub(super) const MAX_REQUEST: usize = 16 * 1024;

/// The longest answer in bytes. 100,000 connections take about 50 MiB.
pub(super) const MAX_ANSWER: usize = 128 << 20;

/// How long a client may take to send its request, and again to read its answer.
pub(super) const CLIENT_TIME: Duration = Duration::from_secs(5);

/// The longest line of a trace in bytes.
pub(super) const MAX_TRACE_LINE: usize = 16 * 1024;

/// How long a client may leave a trace unread.
pub(super) const TRACE_TIME: Duration = Duration::from_secs(60);

/// How long a daemon may take to answer.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(30);

/// What a daemon can be asked. The answers are named in parentheses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// How is it? ([`StatusView`](super::StatusView))
    Status,
    /// What does the ring look like, who owns what? ([`RingView`](super::RingView))
    Ring(RingQuery),
    /// Which connections are there? ([`ConnectionList`](super::ConnectionList))
    Connections(ConnectionFilter),
    /// What has been counted? ([`StatsView`](super::StatsView))
    Stats,
    /// Read the configuration again and do as it says. ([`ReloadReport`](super::ReloadReport))
    Reload,
    /// What does the filter do with each segment, from now on? ([`TraceStart`](super::TraceStart), then
    /// [`TraceLine`](super::TraceLine)s)
    Trace(TraceQuery),
}

/// An answer, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer<T> {
    Ok(T),
    Error(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_lines_are_what_is_sent() {
        let line = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(line(&Request::Status), r#""status""#);
        let parsed: Request = serde_json::from_str(r#"{"ring":{"points":true}}"#).unwrap();
        assert_eq!(
            parsed,
            Request::Ring(RingQuery {
                points: true,
                lookup: None
            })
        );
        assert_eq!(
            serde_json::to_string(&Answer::Ok(1)).unwrap(),
            r#"{"ok":1}"#
        );
        let error = Answer::<()>::Error("no".to_owned());
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"error":"no"}"#);
    }
}
