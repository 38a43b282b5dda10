//! the DTS daemon as a library

pub mod config;
pub mod inspect;
pub mod placement;
