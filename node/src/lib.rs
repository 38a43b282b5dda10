//! the DTS daemon as a library

pub mod placement;
