//! Single values: each function takes one from TOML, or says what is wrong with it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::model::{Fate, Handover, HashKind, Mode, NodeId, Protocol};
use super::reader::described;

/// What is wrong with a value: `what` continues a sentence that begins with the key.
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) help: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            help: help.into(),
        }
    }
}

pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, Problem> {
    match value {
        DeValue::String(text) => Ok(text),
        other => Err(Problem::new(
            format!("must be a string, not {}", described(other)),
            "write it in double quotes",
        )),
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Problem> {
    match value {
        DeValue::Boolean(flag) => Ok(*flag),
        other => Err(Problem::new(
            format!("must be true or false, not {}", described(other)),
            "write `true` or `false`, without quotes",
        )),
    }
}

/// A whole number within `range`, which must fit `T`.
pub(super) fn number<T: TryFrom<i64>>(
    range: RangeInclusive<i64>,
) -> impl FnOnce(&DeValue<'_>) -> Result<T, Problem> {
    move |value| {
        let help = format!(
            "write a whole number from {} to {}",
            range.start(),
            range.end()
        );
        let DeValue::Integer(integer) = value else {
            let what = format!("must be a whole number, not {}", described(value));
            return Err(Problem::new(what, help));
        };
        i64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| Problem::new(format!("is {}, out of range", integer.as_str()), help))
    }
}

pub(super) fn port(value: &DeValue<'_>) -> Result<u16, Problem> {
    number(1..=65535)(value)
}

/// The address of a node or a service.
pub(super) fn address(value: &DeValue<'_>) -> Result<IpAddr, Problem> {
    let text = text(value)?;
    let problem = |what: &str, help: String| Err(Problem::new(format!("is {text:?}{what}"), help));
    let Ok(address) = text.parse::<IpAddr>() else {
        return problem(
            ", not an IP address",
            "write an address alone, such as \"198.18.1.11\" or \"2001:db8:1::11\", without port or \
             prefix length"
                .to_owned(),
        );
    };
    if let IpAddr::V6(v6) = address {
        if let Some(v4) = v6.to_ipv4_mapped() {
            return problem(
                ", an IPv4 address in the form of an IPv6 one",
                format!("write \"{v4}\""),
            );
        }
        if v6.is_unicast_link_local() {
            return problem(
                ", a link-local address, which means nothing without an interface",
                "use a global address or a unique local one (fd00::/8)".to_owned(),
            );
        }
    }
    let reserved = matches!(address, IpAddr::V4(v4) if v4.octets()[0] >= 240);
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || reserved {
        return problem(
            ", which no host can have on a network",
            "use a unicast address that is not a loopback address".to_owned(),
        );
    }
    Ok(address)
}

/// A name that may become part of a file name.
pub(super) fn name(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=63).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('.') {
        Ok(text.to_owned())
    } else {
        Err(Problem::new(
            format!("is {text:?}, which can't be a name"),
            "use 1 to 63 letters, digits, `-`, `_` and `.`, not starting with a dot",
        ))
    }
}

pub(super) fn node_id(value: &DeValue<'_>) -> Result<NodeId, Problem> {
    name(value).map(|name| NodeId::unchecked(&name))
}

/// An interface's name, as the kernel allows it (`dev_valid_name`).
pub(super) fn interface(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if (1..=15).contains(&text.len()) && text != "." && text != ".." && !text.contains(forbidden) {
        Ok(text.to_owned())
    } else {
        Err(Problem::new(
            format!("is {text:?}, which can't be an interface"),
            "write the name that `ip link` shows, such as \"eth0\"",
        ))
    }
}

/// A file; a relative path is relative to `directory`.
pub(super) fn file_in(directory: &Path) -> impl FnOnce(&DeValue<'_>) -> Result<PathBuf, Problem> {
    move |value| match text(value)? {
        "" => Err(Problem::new("is empty", "write the path of the file")),
        path => Ok(directory.join(path)),
    }
}

/// A directory that stays where it is, whatever the daemon's working directory.
pub(super) fn directory(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let path = Path::new(text(value)?);
    if path.is_absolute() {
        Ok(path.to_owned())
    } else {
        Err(Problem::new(
            format!("is {:?}, not an absolute path", path.display().to_string()),
            "write a path that starts with `/`",
        ))
    }
}

/// The beginning of a URI's path, or all of it.
pub(super) fn path(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    let problem = |what: &str, help| Err(Problem::new(format!("is {text:?}, {what}"), help));
    if !text.starts_with('/') {
        problem(
            "not a path",
            "write it as clients send it, from the first `/` on",
        )
    } else if text.contains(['?', '#']) {
        problem(
            "more than a path",
            "leave out the query: it takes no part in the comparison",
        )
    } else if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
        problem(
            "which no client sends like this",
            "write spaces and letters outside ASCII percent-encoded, as clients send them",
        )
    } else {
        Ok(text.to_owned())
    }
}

/// A host name or address for comparison with the `Host` header; in lower case.
pub(super) fn host(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    let problem = |what: &str, help| Err(Problem::new(format!("is {text:?}, {what}"), help));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.contains(':') {
        problem(
            "more than a host",
            "write the name alone: scheme and port take no part",
        )
    } else if text.contains('*') {
        problem(
            "a pattern",
            "write one rule for each name: there are no wildcards",
        )
    } else if text.is_empty() || !text.chars().all(allowed) {
        problem("not a host", "write a name such as \"img.example.com\"")
    } else {
        Ok(text.trim_end_matches('.').to_ascii_lowercase())
    }
}

/// The first line that a client sends, or its beginning.
pub(super) fn line(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    let problem = |what: &str, help| Err(Problem::new(format!("is {text:?}, {what}"), help));
    if text.is_empty() {
        problem(
            "which every line begins with",
            "write a word, or the target as the service's `default`",
        )
    } else if text.contains(['\r', '\n']) {
        problem("more than a line", "leave out the line's end")
    } else {
        Ok(text.to_owned())
    }
}

pub(super) fn mode(value: &DeValue<'_>) -> Result<Mode, Problem> {
    one_of(value, &[("l4", Mode::L4), ("l7", Mode::L7)])
}

/// Whether a process decides in place of the rules.
pub(super) fn inspector(value: &DeValue<'_>) -> Result<bool, Problem> {
    one_of(value, &[("rules", false), ("process", true)])
}

/// A user or group: a name, or a number as text.
pub(super) fn account(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '$');
    if (1..=63).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(Problem::new(
            format!("is {text:?}, which can't be a user or group"),
            "write a name as in /etc/passwd or /etc/group, or a number in quotes",
        ))
    }
}

pub(super) fn protocol(value: &DeValue<'_>) -> Result<Protocol, Problem> {
    const HELP: &str = "write \"http\", or \"line\" or { bytes = 4 } for another protocol";
    match value {
        DeValue::Table(table) if table.len() == 1 => {
            let Some(bytes) = table.get("bytes") else {
                return Err(Problem::new("has an unknown key", HELP));
            };
            number(1..=1024)(bytes.get_ref()).map(Protocol::Bytes)
        }
        DeValue::Table(_) => Err(Problem::new("is not one protocol", HELP)),
        _ => {
            let names = [("http", Protocol::Http), ("line", Protocol::Line)];
            one_of(value, &names).map_err(|problem| Problem {
                help: HELP.to_owned(),
                ..problem
            })
        }
    }
}

pub(super) fn hash(value: &DeValue<'_>) -> Result<HashKind, Problem> {
    one_of(
        value,
        &[("siphash", HashKind::SipHash), ("md5", HashKind::Md5)],
    )
}

pub(super) fn fate(value: &DeValue<'_>) -> Result<Fate, Problem> {
    one_of(value, &[("default", Fate::Default), ("reset", Fate::Reset)])
}

pub(super) fn handover(value: &DeValue<'_>) -> Result<Handover, Problem> {
    one_of(
        value,
        &[
            ("auto", Handover::Auto),
            ("adopt", Handover::Adopt),
            ("splice", Handover::Splice),
        ],
    )
}

/// The one membership source there is.
pub(super) fn membership_source(value: &DeValue<'_>) -> Result<(), Problem> {
    one_of(value, &[("static", ())])
}

fn one_of<T: Copy>(value: &DeValue<'_>, choices: &[(&str, T)]) -> Result<T, Problem> {
    let text = text(value)?;
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*choice);
    }
    let names: Vec<_> = choices
        .iter()
        .map(|(name, _)| format!("{name:?}"))
        .collect();
    Err(Problem::new(
        format!("is {text:?}, unknown"),
        format!("write {}", names.join(" or ")),
    ))
}
