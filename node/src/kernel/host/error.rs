//! What can be wrong with a host.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::interfaces::Role;

/// Why a host is unfit for a node, could not be set up or not be put back.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no such interface.
    #[error(
        "there is no interface {name} ({role}); this host has {}: correct `{role}` in [node]",
        list(present)
    )]
    NoInterface {
        /// What it should be.
        role: Role,
        /// Its name.
        name: String,
        /// The interfaces that there are.
        present: Vec<String>,
    },
    /// An interface is down.
    #[error("interface {name} ({role}) is down: run `ip link set dev {name} up`")]
    Down {
        /// What it is for.
        role: Role,
        /// Its name.
        name: String,
    },
    /// An interface has no Ethernet addresses.
    #[error(
        "interface {name} ({role}) is not an Ethernet interface; this host has {}: correct \
         `{role}` in [node]",
        list(ethernet)
    )]
    NotEthernet {
        /// What it should be.
        role: Role,
        /// Its name.
        name: String,
        /// The Ethernet interfaces that there are.
        ethernet: Vec<String>,
    },
    /// An interface hands its packets to another one.
    #[error(
        "interface {name} ({role}) is part of {controller}, which takes its packets: name another \
         one, or release it with `ip link set dev {name} nomaster`"
    )]
    Enslaved {
        /// What it should be.
        role: Role,
        /// Its name.
        name: String,
        /// The bridge, bond or the like.
        controller: String,
    },
    /// The node's address is not on the back interface.
    #[error(
        "address {address} is not on {back} (back) but on {on}: correct `address` or `back` in \
         [node]"
    )]
    AddressElsewhere {
        /// The node's address.
        address: IpAddr,
        /// The back interface.
        back: String,
        /// The interface that has it.
        on: String,
    },
    /// The node's address is on no interface.
    #[error(
        "address {address} is not on {back} (back), which has {}: correct `address` in [node], or \
         run `ip address add {address}/PREFIX dev {back}`",
        list(present)
    )]
    NoAddress {
        /// The node's address.
        address: IpAddr,
        /// The back interface.
        back: String,
        /// The addresses that it has.
        present: Vec<IpAddr>,
    },
    /// A shared address is configured as a node's own.
    #[error(
        "VIP {vip} is on {interface}, so this node would answer {} for it with its own link \
         address: run `ip address del {vip}/{prefix} dev {interface}` (DTS puts it on lo)",
        questions(*vip)
    )]
    VipElsewhere {
        /// The shared address.
        vip: IpAddr,
        /// The interface that has it.
        interface: String,
        /// The length of its prefix, in bits.
        prefix: u8,
    },
    /// An interface that IPv6 packets need has it turned off.
    #[error(
        "IPv6 is off on {interface}, and {address} needs it: set \
         net.ipv6.conf.{interface}.disable_ipv6 to 0"
    )]
    NoIpv6 {
        /// The interface.
        interface: String,
        /// The address that needs it.
        address: IpAddr,
    },
    /// Something else uses the self address.
    #[error("{what}: remove it, or set another `self_address` in [node], one that no host has")]
    SelfAddressTaken {
        /// What uses it, in words.
        what: String,
    },
    /// A shared address with no multicast group's link address.
    #[error("address {vip} cannot be a VIP: it is not a host's address")]
    NotHostAddress {
        /// The address.
        vip: IpAddr,
    },
    /// The kernel refused a request, or could not be asked.
    #[error("cannot {what}: {source}{}", hint(source))]
    Kernel {
        /// What was asked for, in words.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The state file could not be read or written.
    #[error("cannot {what} state file {}: {source}", path.display())]
    StateFile {
        /// `read`, `write` or `remove`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The state file is not one of ours.
    #[error(
        "{} is not a state file that this version of DTS understands ({source}): undo what it \
         describes by hand, then remove it",
        path.display()
    )]
    StateFormat {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Some changes could not be undone.
    #[error(
        "could not undo everything; what is left remains noted in {}: {}",
        state_file.display(), list(failures)
    )]
    Restore {
        /// Where they remain noted.
        state_file: PathBuf,
        /// One for each of the changes.
        failures: Vec<HostError>,
    },
    /// The process may not do what a daemon does.
    #[error("{} missing: run as root (or with CAP_NET_ADMIN and CAP_BPF)", missing.join(" and "))]
    Privileges {
        /// The capabilities that it lacks.
        missing: Vec<&'static str>,
    },
    /// The filter's maps cannot be pinned where they should be.
    #[error(
        "{} is not on a BPF file system: choose a `pin_dir` below /sys/fs/bpf, or run `mount -t \
         bpf bpf DIR` for a directory above it",
        pin_dir.display()
    )]
    NotBpfFs {
        /// Where they should be pinned.
        pin_dir: PathBuf,
    },
    /// The BPF file system is missing and could not be mounted.
    #[error(
        "cannot mount the BPF file system: {source}; run `mount -t bpf bpf /sys/fs/bpf` as root"
    )]
    MountBpfFs {
        /// Why not.
        source: io::Error,
    },
    /// The kernel does not describe its types.
    #[error(
        "{path} is missing: DTS needs a kernel with BPF and BTF (CONFIG_BPF_SYSCALL and \
         CONFIG_DEBUG_INFO_BTF), as distributions build them"
    )]
    NoBtf {
        /// Where the description should be.
        path: &'static str,
    },
}

impl HostError {
    /// For `map_err`: the kernel's refusal of what is said in words, such as "add the route to X".
    pub(super) fn kernel<E: Into<io::Error>>(what: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |source| Self::Kernel {
            what: what.to_string(),
            source: source.into(),
        }
    }

    /// For `map_err`: a failed access to the state file.
    pub(super) fn state_file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::StateFile {
            what,
            path: path.into(),
            source,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root (or with CAP_NET_ADMIN)",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; in a container, let it have a writable /proc/sys/net"
        }
        _ => "",
    }
}

/// What others ask for an address's link address.
fn questions(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour solicitations",
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    items.join(", ")
}
