//! Where things belong: the ring of inspecting nodes, and the node that processes a request.

mod ring;

pub use ring::{NodeIndex, Ring, RingMember, TooManyPoints};
