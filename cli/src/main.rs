//! The `dts` command.
fn main() {}
