//! the DTS daemon as a library

pub mod admin;
pub mod config;
pub mod inspect;
pub mod placement;
pub mod kernel;
