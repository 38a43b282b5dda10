//! Gives the shared library its name: programs ask for this version of the interface.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdts.so.0");
    println!("cargo::rerun-if-changed=build.rs");
}
