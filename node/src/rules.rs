//! The services and their rules as the filter is told them: with numbers for tables and sets, and members' addresses.

use dts_core::addr::Addr;
use dts_core::entry::adoption::{NodeSet, SET_NODES, rules, ruling};
use dts_core::entry::{ServiceEntry, ServiceKey, service_kind};

use crate::current::Current;
use crate::inspect::http::compiled::Compiled;
use crate::kernel::filter::adopt::{OldRules, RuleTables};

/// What the filter is told of services and their rules.
pub struct Told {
    /// The services.
    pub services: Vec<(ServiceKey, ServiceEntry)>,
    /// Their rules.
    pub tables: RuleTables,
}

/// Compiles what the filter is to know of the services. `adopts` says which of them, by their numbers, adopt their
/// connections; those in `mixed` may have connections of both ways. Tables and sets have numbers that `old` has not.
#[must_use]
pub fn told(
    current: &Current,
    adopts: impl Fn(u16) -> bool,
    old: &OldRules,
    mixed: &[u16],
) -> Told {
    let mut next = old.next_number();
    let mut tables = RuleTables::default();
    let mut services = current.filter_services();
    for (key, entry) in &mut services {
        if entry.kind != service_kind::L7 {
            continue;
        }
        let is_mixed = mixed.contains(&entry.id);
        if adopts(entry.id) {
            entry.kind = service_kind::ADOPT;
            let inspected = current.inspected.iter().find(|s| {
                Addr::from(s.service.vip) == key.vip && u32::from(s.service.port) == key.port
            });
            if let Some(compiled) = inspected.and_then(|s| s.compiled.as_ref()) {
                next = add(current, compiled, next, entry, &mut tables);
            }
        }
        if is_mixed {
            entry.rules |= rules::MIXED;
        }
    }
    Told { services, tables }
}

/// Adds a service's compiled rules under numbers from `next` on; returns the number after them.
fn add(
    current: &Current,
    compiled: &Compiled,
    next: u32,
    entry: &mut ServiceEntry,
    tables: &mut RuleTables,
) -> u32 {
    let first_set = next + compiled.hosts.len() as u32 + 1;
    let ruled = |given: u32| match ruling::kind(given) {
        ruling::SET => given + first_set,
        _ => given,
    };
    entry.rules = compiled.bits;
    entry.table = compiled.bytes.map_or(next, u32::from);
    entry.default = ruled(compiled.default);
    let text = |((table, text), given): (&(u32, String), &u32)| {
        (next + table, text.clone(), ruled(*given))
    };
    if compiled.bits & rules::LINE != 0 {
        tables.paths.extend(compiled.paths.iter().map(text));
        tables.prefixes.extend(compiled.prefixes.iter().map(text));
        let hosts = compiled.hosts.iter();
        tables
            .hosts
            .extend(hosts.map(|(host, table)| (next, host.clone(), next + table)));
    }
    for (number, nodes) in (first_set..).zip(&compiled.sets) {
        let mut set = NodeSet::default();
        let addresses = nodes.iter().filter_map(|id| {
            let member = current.config.members.iter().find(|m| m.id == *id)?;
            Some(Addr::from(member.address))
        });
        for (place, address) in set.nodes.iter_mut().zip(addresses).take(SET_NODES) {
            *place = address;
            set.count += 1;
        }
        tables.sets.push((number, set));
    }
    first_set + compiled.sets.len() as u32
}
