//! Finds a Rust toolchain that can build eBPF and builds the packet filter with it.
//!
//! The filter (`ebpf/`) is compiled for `bpfel-unknown-none`, a target for which rustup ships no
//! `core`. Two kinds of toolchain can do it all the same:
//!
//! - a rustup nightly with the `rust-src` component, which builds `core` on the way
//!   (`-Z build-std=core`);
//! - Debian's `rustc-web` with `libstd-rust-web-dev-bpf`, which holds a `core` built in advance.
//!
//! Either needs `bpf-linker` to turn LLVM bitcode into an object file. [`Toolchain::find`] looks
//! for both, [`build()`] runs cargo. The crate is used by `node/build.rs`, which embeds the object,
//! and by `cargo xtask setup`, which installs what is missing.

mod build;
mod toolchain;

pub use build::{BuildError, build, lint};
pub use toolchain::{Core, Missing, Places, Toolchain};

/// The target triple of the filter: little-endian eBPF.
pub const TARGET: &str = "bpfel-unknown-none";

/// Names the compiler to use instead of the one that would be found: the path of a `rustc`.
pub const RUSTC_VARIABLE: &str = "DTS_BPF_RUSTC";
