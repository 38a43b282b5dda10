//! The address families of a test: of clients and VIP, and of the network between the nodes.
//!
//! Tests name every address by four bytes. In a network whose family is IPv6, the name stands for the address that ends
//! with it: whatever is said of a frame is said of both families.

use std::cell::Cell;

use dts_core::addr::Addr;

/// The families, each: whether it is IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct World {
    pub(crate) clients_v6: bool,
    pub(crate) nodes_v6: bool,
}

/// All four.
pub(crate) const WORLDS: [World; 4] = [
    World::of(false, false),
    World::of(true, true),
    World::of(true, false),
    World::of(false, true),
];

thread_local! {
    static WORLD: Cell<World> = Cell::default();
}

impl World {
    const fn of(clients_v6: bool, nodes_v6: bool) -> Self {
        Self {
            clients_v6,
            nodes_v6,
        }
    }

    /// Makes this the thread's world.
    pub(crate) fn enter(self) {
        WORLD.set(self);
    }

    /// The thread's world.
    pub(crate) fn present() -> Self {
        WORLD.get()
    }
}

/// The address that a name stands for. Clients and VIPs are in 198.18.0.0/24.
pub(crate) fn addr(name: [u8; 4]) -> Addr {
    let world = World::present();
    let v6 = if name[..3] == [198, 18, 0] {
        world.clients_v6
    } else {
        world.nodes_v6
    };
    if !v6 {
        return Addr::v4(name);
    }
    let mut octets = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    octets[12..].copy_from_slice(&name);
    Addr::v6(octets)
}

/// How long the IP header of clients' packets is, without options.
pub(crate) fn ip_len() -> usize {
    if World::present().clients_v6 { 40 } else { 20 }
}

/// The same with the DTS option.
pub(crate) fn optioned_ip_len() -> usize {
    if World::present().clients_v6 { 64 } else { 36 }
}

/// How long that of the nodes' packets is.
pub(crate) fn back_ip_len() -> usize {
    if World::present().nodes_v6 { 40 } else { 20 }
}
