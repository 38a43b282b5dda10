//! the DTS daemon as a library

pub mod admin;
pub mod adoption;
pub mod config;
pub mod current;
pub mod daemon;
pub mod handover;
pub mod housekeeping;
pub mod inspect;
pub mod kernel;
pub mod placement;
pub mod processes;
pub mod rules;
pub mod trace;
pub mod waiting;
pub mod worker;
