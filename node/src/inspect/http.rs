//! The inspector of HTTP/1.0 and HTTP/1.1 services: declarative rules over the request's head.
//!
//! # What is compared
//!
//! - The *path* is the request target without its query, byte for byte as the client sent it:
//!   percent-encoding is not decoded, `..` and `//` are not resolved. A target in absolute form
//!   (`GET http://host/path`) has the same path as in origin form; `*` and the target of `CONNECT` have
//!   none, so no rule with a path matches them.
//! - The *host* is that of an absolute target, else of the `Host` header, without port and trailing
//!   dot; case doesn't matter.
//! - The *key* of `{ hash = "uri" }` is the request target in origin form, query included.
//!
//! A head that can't be parsed, has several `Host` headers (RFC 9112 §3.2) or more than
//! [`MAX_HEADERS`] headers is unreadable. It has the fate that the service's `on_undecided` says: it goes to the default
//! target, whose server answers it as it sees fit, or its client is reset.
//!
//! # When it decides
//!
//! As soon as it can: when no rule that could still match asks for the host, the request line is
//! enough. What comes later can't change a decision.

pub mod compiled;

use std::sync::atomic::{AtomicU64, Ordering};

use dts_core::ring::{RingHashSpec, key_hash};
use httparse::{EMPTY_HEADER, Request, Status};

use super::{ConnectionInfo, Decision, Destination, Inspector, Reason, TargetChoice};
use crate::config::{Fate, Matcher, Service};

/// A head with more headers than this is not parsed.
pub const MAX_HEADERS: usize = 128;

/// Inspects the requests to one service.
#[derive(Debug)]
pub struct HttpInspector {
    keep_local: Vec<String>,
    rules: Vec<(Matcher, Destination)>,
    default: Destination,
    hash: RingHashSpec,
    /// Bytes that a connection may send and be undecided.
    limit: usize,
    on_undecided: Fate,
    /// How many requests were unreadable.
    unreadable: AtomicU64,
}

/// What a head says.
enum Said {
    Go(TargetChoice),
    Unreadable,
}

impl HttpInspector {
    /// The inspector of `service`; `hash` is the ring's.
    pub fn new(service: &Service, hash: RingHashSpec) -> Self {
        let rules = service
            .rules
            .iter()
            .map(|rule| (rule.matcher.clone(), (&rule.to).into()));
        Self {
            keep_local: service.keep_local.clone(),
            rules: rules.collect(),
            default: (&service.default).into(),
            hash,
            limit: service.undecided_bytes,
            on_undecided: service.on_undecided,
            unreadable: AtomicU64::new(0),
        }
    }

    /// The default target of a connection whose request can't be read. It has no key, so a default by hash means this node.
    pub fn default_choice(&self) -> TargetChoice {
        self.default.without_key()
    }

    /// How many requests were unreadable.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// What becomes of a connection that is over a limit and undecided, or whose request is unreadable.
    pub fn overdue(&self, reason: Reason) -> Decision {
        match self.on_undecided {
            Fate::Default => Decision::Handover(self.default_choice()),
            Fate::Reset => Decision::Reject(reason),
        }
    }

    /// Where the request goes that `bytes` begin with; `None` when they don't say yet.
    fn choose(&self, bytes: &[u8]) -> Option<Said> {
        let Some(line) = request_line(bytes) else {
            // No line end in sight. What can't become a request line need not be waited for.
            let garbage = Request::new(&mut []).parse(bytes).is_err();
            return garbage.then_some(Said::Unreadable);
        };
        let mut no_headers = [];
        let mut request = Request::new(&mut no_headers);
        let Some(target) = request
            .parse(line)
            .ok()
            .and(request.path)
            .map(RequestTarget::parse)
        else {
            return Some(Said::Unreadable);
        };
        let host = target
            .authority
            .map_or(Host::Unread, |authority| Host::Of(bare(authority)));
        if let Some(choice) = self.by_rules(&target, host) {
            return Some(Said::Go(choice));
        }
        match host_header(bytes) {
            HostHeader::Incomplete => None,
            HostHeader::Unusable => Some(Said::Unreadable),
            HostHeader::Read(host) => self.by_rules(&target, host).map(Said::Go),
        }
    }

    /// The target of the first rule that matches, else the default; `None` when that takes the host
    /// and it hasn't been read.
    fn by_rules(&self, target: &RequestTarget<'_>, host: Host<'_>) -> Option<TargetChoice> {
        if self
            .keep_local
            .iter()
            .any(|prefix| target.path.starts_with(prefix.as_str()))
        {
            return Some(TargetChoice::Local);
        }
        for (matcher, destination) in &self.rules {
            if !matches_path(matcher, target.path) {
                continue;
            }
            match (&matcher.host, host) {
                (None, _) => return Some(self.go(destination, target)),
                (Some(_), Host::Unread) => return None,
                (Some(wanted), Host::Of(host)) if host.eq_ignore_ascii_case(wanted.as_bytes()) => {
                    return Some(self.go(destination, target));
                }
                (Some(_), Host::Of(_) | Host::Absent) => {}
            }
        }
        Some(self.go(&self.default, target))
    }

    fn go(&self, destination: &Destination, target: &RequestTarget<'_>) -> TargetChoice {
        destination.choose(|| target.key(&self.hash))
    }
}

impl Inspector for HttpInspector {
    fn inspect(&self, _connection: &ConnectionInfo, bytes: &[u8]) -> Decision {
        // What is beyond the limit doesn't count, or the decision would depend on the segments.
        let counted = bytes.get(..self.limit).unwrap_or(bytes);
        match self.choose(counted) {
            Some(Said::Go(choice)) => Decision::Handover(choice),
            Some(Said::Unreadable) => {
                self.unreadable.fetch_add(1, Ordering::Relaxed);
                self.overdue(Reason::Unreadable)
            }
            // At the limit as well: whoever asked counts the bytes, and says what becomes of the connection.
            None => Decision::NeedMore,
        }
    }
}

fn matches_path(matcher: &Matcher, path: &str) -> bool {
    matcher.path.as_ref().is_none_or(|wanted| wanted == path)
        && matcher
            .path_prefix
            .as_ref()
            .is_none_or(|prefix| path.starts_with(prefix.as_str()))
}

/// The request line with its line end, and the empty lines before it (RFC 9112 §2.2).
fn request_line(bytes: &[u8]) -> Option<&[u8]> {
    let begin = bytes
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let length = bytes[begin..].iter().position(|byte| *byte == b'\n')?;
    bytes.get(..=begin + length)
}

/// A request target (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RequestTarget<'a> {
    /// Path and query, or the whole target when it has no path.
    origin: &'a str,
    /// The path without the query; empty when there is none.
    path: &'a str,
    /// Host and port of an absolute target.
    authority: Option<&'a str>,
}

impl<'a> RequestTarget<'a> {
    fn parse(target: &'a str) -> Self {
        let (authority, origin) = match after_scheme(target) {
            Some(rest) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, origin) = rest.split_at(end);
                let host = authority
                    .rsplit_once('@')
                    .map_or(authority, |(_, host)| host);
                (Some(host), if origin.is_empty() { "/" } else { origin })
            }
            None => (None, target),
        };
        let path = match origin.split(['?', '#']).next() {
            Some("") if authority.is_some() => "/",
            Some(path) if path.starts_with('/') => path,
            Some(_) | None => "",
        };
        Self {
            origin,
            path,
            authority,
        }
    }

    /// The place on the ring of requests.
    fn key(&self, hash: &RingHashSpec) -> u64 {
        if self.origin.starts_with('?') {
            // An absolute target without a path: in origin form it has one (RFC 9112 §3.2.1).
            key_hash(hash, ["/", self.origin].concat().as_bytes())
        } else {
            key_hash(hash, self.origin.as_bytes())
        }
    }
}

/// What follows `http://` or `https://`.
fn after_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    http.then_some(rest)
}

/// The host that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host<'a> {
    /// The headers have not been looked at.
    Unread,
    Absent,
    /// As the client wrote it, without port.
    Of(&'a [u8]),
}

enum HostHeader<'a> {
    Incomplete,
    Unusable,
    Read(Host<'a>),
}

/// Looks for the `Host` header in the head that `bytes` begin with.
fn host_header(bytes: &[u8]) -> HostHeader<'_> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Partial) => return HostHeader::Incomplete,
        Ok(Status::Complete(_)) => {}
        Err(_) => return HostHeader::Unusable,
    }
    let mut hosts = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"));
    match (hosts.next(), hosts.next()) {
        (None, _) => HostHeader::Read(Host::Absent),
        (Some(host), None) => match std::str::from_utf8(host.value) {
            Ok(value) => HostHeader::Read(Host::Of(bare(value))),
            Err(_) => HostHeader::Unusable,
        },
        (Some(_), Some(_)) => HostHeader::Unusable,
    }
}

/// An authority's host: without port and without the dot that may end a full name.
fn bare(authority: &str) -> &[u8] {
    let authority = authority.trim_ascii();
    let host = match authority.rfind([':', ']']) {
        Some(colon) if authority.as_bytes()[colon] == b':' => &authority[..colon],
        Some(_) | None => authority,
    };
    host.strip_suffix('.').unwrap_or(host).as_bytes()
}

#[cfg(test)]
mod tests;
