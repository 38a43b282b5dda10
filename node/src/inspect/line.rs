//! The inspector of services whose requests begin with a line of text: SMTP, FTP, POP3 and IMAP behind a
//! [greeting](crate::config::Greeting) (DTS §2.6), and client-first ones such as memcached's.
//!
//! The *line* is what the client sends first, up to its line feed, without that and without a carriage return before it.
//! Rules compare it without regard to ASCII case, as the commands of these protocols are; `{ hash = "line" }` takes it byte
//! for byte.

use dts_core::ring::{RingHashSpec, key_hash};

use super::{ConnectionInfo, Decision, Destination, Inspector, TargetChoice};
use crate::config::{Matcher, Service, begins_like};

/// Inspects the first lines of connections to one service.
#[derive(Debug)]
pub struct LineInspector {
    rules: Vec<(Matcher, Destination)>,
    default: Destination,
    hash: RingHashSpec,
    /// Bytes that a connection may send and be undecided.
    limit: usize,
}

impl LineInspector {
    /// The inspector of `service`; `hash` is the ring's.
    #[must_use]
    pub fn new(service: &Service, hash: RingHashSpec) -> Self {
        let rules = service
            .rules
            .iter()
            .map(|rule| (rule.matcher.clone(), (&rule.to).into()));
        Self {
            rules: rules.collect(),
            default: (&service.default).into(),
            hash,
            limit: service.undecided_bytes,
        }
    }

    fn choose(&self, line: &[u8]) -> TargetChoice {
        let rule = self.rules.iter().find(|(matcher, _)| fits(matcher, line));
        let destination = rule.map_or(&self.default, |(_, destination)| destination);
        destination.choose(|| key_hash(&self.hash, line))
    }
}

impl Inspector for LineInspector {
    fn inspect(&self, _connection: &ConnectionInfo, bytes: &[u8]) -> Decision {
        // What is beyond the limit doesn't count, or the decision would depend on the segments.
        let counted = bytes.get(..self.limit).unwrap_or(bytes);
        match counted.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let line = &counted[..end];
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                Decision::Handover(self.choose(line))
            }
            None => Decision::NeedMore,
        }
    }
}

fn fits(matcher: &Matcher, line: &[u8]) -> bool {
    let whole = matcher
        .line
        .as_ref()
        .is_none_or(|wanted| line.eq_ignore_ascii_case(wanted.as_bytes()));
    let beginning = matcher
        .line_prefix
        .as_ref()
        .is_none_or(|prefix| begins_like(line, prefix));
    whole && beginning
}

#[cfg(test)]
mod tests;
