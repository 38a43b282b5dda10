//! Whether this process may do what a daemon does.

use rustix::thread::{CapabilitySet, capabilities};

use super::error::HostError;

/// Checks that the calling thread may set up interfaces and load a filter.
///
/// # Errors
///
/// [`HostError::Privileges`] without CAP_NET_ADMIN, or without both CAP_BPF and CAP_SYS_ADMIN
/// (which includes the former).
pub fn require_privileges() -> Result<(), HostError> {
    let sets = capabilities(None).map_err(HostError::kernel("read this process's capabilities"))?;
    let missing = missing(sets.effective);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(HostError::Privileges { missing })
    }
}

fn missing(effective: CapabilitySet) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !effective.contains(CapabilitySet::NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if !effective.intersects(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing() {
        let all = ["CAP_NET_ADMIN", "CAP_BPF"];
        assert_eq!(missing(CapabilitySet::empty()), all);
        assert_eq!(missing(CapabilitySet::NET_ADMIN), all[1..]);
        assert_eq!(missing(CapabilitySet::BPF), all[..1]);
        let sufficient = CapabilitySet::NET_ADMIN | CapabilitySet::BPF;
        assert!(missing(sufficient).is_empty());
        let sufficient = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
        assert!(missing(sufficient).is_empty());
    }
}
