//! A configuration put into use: what the host and the filter are told.

use std::time::Duration;

use dts_core::addr::Addr;
use dts_core::entry::{NodeSettings, setting};
use dts_core::handover::release;

use super::{DaemonError, state_path};
use crate::config::Config;
use crate::current::Current;
use crate::kernel::Filter;
use crate::kernel::host::clock;
use crate::kernel::host::{Applied, Host, HostSpec};

/// What an adoption's option takes of a frame on the back network, in bytes.
const ADOPTION_ROOM: u32 = release::LEN as u32;

/// IPv4 and TCP headers without options, in bytes.
const HEADERS: u32 = 40;

/// The window scale that the filter offers to clients: windows up to 8 MiB, in steps of 128 bytes.
const ANNOUNCED_SCALE: u8 = 7;

/// What a running daemon can't change: its identity, its interfaces, its keys and tables.
pub(super) fn refuse_restart(old: &Config, new: &Config) -> Result<(), DaemonError> {
    let (o, n) = (&old.node, &new.node);
    let same = [
        (old.cluster == new.cluster, "[cluster]"),
        (o.id == n.id, "[node] id"),
        (
            o.front == n.front && o.back == n.back,
            "[node] front and back",
        ),
        (
            o.address == n.address && o.self_address == n.self_address,
            "[node] address",
        ),
        (
            o.run_dir == n.run_dir && o.pin_dir == n.pin_dir,
            "[node] run_dir and pin_dir",
        ),
        (o.connections == n.connections, "[node] connections"),
        (
            o.workers == n.workers && o.lease == n.lease,
            "[node] workers and lease_ms",
        ),
        (old.ring.hash == new.ring.hash, "[ring] hash"),
    ];
    match same.iter().find(|(same, _)| !same) {
        Some((_, what)) => Err(DaemonError::NeedsRestart(what)),
        None => Ok(()),
    }
}

pub(super) fn host_spec(current: &Current) -> HostSpec {
    let node = &current.config.node;
    HostSpec {
        front: node.front.clone(),
        back: node.back.clone(),
        address: node.address,
        self_address: node.self_address,
        vips: current.vips(),
    }
}

pub(super) async fn apply_host(current: &Current) -> Result<Applied, DaemonError> {
    Ok(Host::apply(&host_spec(current), &state_path(&current.config)).await?)
}

pub(super) fn tell_filter(
    filter: &Filter,
    current: &Current,
    former: Duration,
    applied: &Applied,
    tag_key: [u8; 16],
) -> Result<(), DaemonError> {
    let config = &current.config;
    let members: Vec<_> = config
        .members
        .iter()
        .map(|m| Addr::from(m.address))
        .collect();
    let vips: Vec<_> = current.vips().into_iter().map(Addr::from).collect();
    filter.set_members(&members)?;
    let segment = applied
        .front_mtu
        .min(applied.back_mtu.saturating_sub(ADOPTION_ROOM));
    filter.set_node(&NodeSettings {
        address: Addr::from(config.node.address),
        self_address: Addr::from(config.node.self_address),
        tag_key,
        clock_offset: clock::unix_offset(),
        front: applied.front_index,
        back: applied.back_index,
        handover_port: config.cluster.handover_port.into(),
        front_mac: applied.front_mac,
        back_mac: applied.back_mac,
        announced_mss: u16::try_from(segment.saturating_sub(HEADERS)).unwrap_or(u16::MAX),
        announced_scale: ANNOUNCED_SCALE,
        request_bank: 0,
        services_epoch: 0,
        flags: if applied.strict_back {
            setting::DETOUR
        } else {
            0
        },
        reserved: 0,
    })?;
    let flows = &current.flows;
    filter.publish_ring(
        current.node().0,
        flows.epoch(),
        *flows.hash(),
        flows.points(),
        former,
    )?;
    filter.set_vips(&vips)?;
    Ok(())
}
