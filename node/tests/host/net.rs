//! A host and its network in namespaces of their own:
//!
//! ```text
//!          host                    outside
//!   eth0 198.18.0.11/24  ----  f0 198.18.0.1/24
//!   eth1 198.18.1.11/24  ----  b0
//! ```
//!
//! Where a test asks for IPv6, `2001:db8::11/64`, `2001:db8::1/64` and `2001:db8:1::11/64` as well.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dts_node::kernel::host::{Applied, Host, HostError, HostSpec};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) const FRONT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 11);
pub(crate) const BACK: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 11);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub(crate) const SELF: Ipv4Addr = Ipv4Addr::new(169, 254, 68, 84);
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);

pub(crate) const FRONT_V6: Ipv6Addr = v6(0, 0x11);
pub(crate) const BACK_V6: Ipv6Addr = v6(1, 0x11);
pub(crate) const CLIENT_V6: Ipv6Addr = v6(0, 1);
pub(crate) const SELF_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0x4454);
pub(crate) const VIP_V6: Ipv6Addr = v6(0, 0x100);

const fn v6(subnet: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, host)
}

/// How long a connection may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace, removed when dropped.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("dts-host-{}-{number}", process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        // Its addresses and groups would come and go in their own time.
        namespace.write("net/ipv6/conf/all/disable_ipv6", "1");
        namespace.write("net/ipv6/conf/default/disable_ipv6", "1");
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `ip` in the namespace; what it printed.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let mut command = Command::new("ip");
        run(command
            .args(["-n", &self.name])
            .args(arguments.split_ascii_whitespace()))
    }

    /// Runs `work` on a thread that is in the namespace.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(&self.name);
        let worker = || {
            let namespace = File::open(&path).expect("a namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root's right");
            work()
        };
        thread::scope(|scope| scope.spawn(worker).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sets a value below /proc/sys.
    pub(crate) fn write(&self, key: &str, value: &str) {
        self.within(|| fs::write(Path::new("/proc/sys").join(key), value))
            .unwrap_or_else(|error| panic!("{key}: {error}"));
    }

    /// A value below /proc/sys.
    pub(crate) fn read(&self, key: &str) -> String {
        let text = self.within(|| fs::read_to_string(Path::new("/proc/sys").join(key)));
        text.unwrap_or_else(|error| panic!("{key}: {error}"))
            .trim()
            .to_owned()
    }

    /// The line of the neighbour entry for an address, empty if there is none.
    pub(crate) fn neighbour(&self, address: impl Into<IpAddr>) -> String {
        let address: IpAddr = address.into();
        self.ip(&format!("neigh show {address} nud all"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not `run`: a panic here would hide the test's own.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// The host under test with what is on its wires.
pub(crate) struct Net {
    pub(crate) host: Namespace,
    pub(crate) outside: Namespace,
    dir: tempfile::TempDir,
}

impl Net {
    pub(crate) fn new() -> Self {
        let net = Self {
            host: Namespace::new(),
            outside: Namespace::new(),
            dir: tempfile::tempdir().expect("a directory"),
        };
        for (inner, outer) in [("eth0", "f0"), ("eth1", "b0")] {
            let outside = &net.outside.name;
            net.host.ip(&format!(
                "link add {inner} type veth peer name {outer} netns {outside}"
            ));
            net.outside.ip(&format!("link set {outer} up"));
            net.host.ip(&format!("link set {inner} up"));
        }
        net.host.ip(&format!("addr add {FRONT}/24 dev eth0"));
        net.host.ip(&format!("addr add {BACK}/24 dev eth1"));
        net.outside.ip(&format!("addr add {CLIENT}/24 dev f0"));
        net.wait_until_up();
        net
    }

    /// The same with IPv6.
    pub(crate) fn with_ipv6() -> Self {
        let net = Self::new();
        for namespace in [&net.host, &net.outside] {
            namespace.write("net/ipv6/conf/all/accept_dad", "0");
            namespace.write("net/ipv6/conf/default/accept_dad", "0");
            for interface in ["lo", "eth0", "eth1", "f0", "b0"] {
                let key = format!("net/ipv6/conf/{interface}");
                let is_there = namespace.within(|| Path::new("/proc/sys").join(&key).exists());
                if is_there {
                    namespace.write(&format!("{key}/accept_dad"), "0");
                    namespace.write(&format!("{key}/router_solicitations"), "0");
                    // The kernel makes link-local addresses now, as when an interface comes up.
                    namespace.write(&format!("{key}/disable_ipv6"), "0");
                }
            }
        }
        let add = |namespace: &Namespace, address: Ipv6Addr, interface: &str| {
            namespace.ip(&format!("addr add {address}/64 dev {interface} nodad"));
        };
        add(&net.host, FRONT_V6, "eth0");
        add(&net.host, BACK_V6, "eth1");
        add(&net.outside, CLIENT_V6, "f0");
        wait_until("the addresses to be usable", || {
            let all = net.host.ip("-6 addr show") + &net.outside.ip("-6 addr show");
            all.matches("fe80::").count() == 4 && !all.contains("tentative")
        });
        net
    }

    pub(crate) fn wait_until_up(&self) {
        wait_until("the interfaces to be up", || {
            self.host
                .ip("-brief link show type veth")
                .lines()
                .all(|line| line.contains(" UP "))
        });
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.dir.path().join("host.json")
    }

    pub(crate) fn try_apply(&self, spec: &HostSpec) -> Result<Applied, HostError> {
        let state_file = self.state_file();
        self.host
            .within(|| block_on(Host::apply(spec, &state_file)))
    }

    pub(crate) fn apply(&self, spec: &HostSpec) -> Applied {
        self.try_apply(spec)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn try_restore(&self) -> Result<(), HostError> {
        let state_file = self.state_file();
        self.host.within(|| block_on(Host::restore(&state_file)))
    }

    pub(crate) fn restore(&self) {
        self.try_restore().unwrap_or_else(|error| panic!("{error}"));
    }

    /// All that DTS could have changed, and more.
    pub(crate) fn snapshot(&self) -> Vec<String> {
        let queries = [
            "-j addr show",
            "-j route show table all",
            "-j neigh show nud all",
            "-j maddr show",
        ];
        self.found(&queries, "/proc/sys/net/ipv4/conf")
    }

    /// The same of IPv6.
    pub(crate) fn snapshot_v6(&self) -> Vec<String> {
        let queries = [
            "-6 addr show",
            "-6 route show table all",
            "-6 neigh show nud permanent",
            "maddr show",
        ];
        self.found(&queries, "/proc/sys/net/ipv6/conf")
    }

    fn found(&self, queries: &[&str], settings: &str) -> Vec<String> {
        let mut found: Vec<_> = queries.iter().map(|query| self.host.ip(query)).collect();
        let sysctls = self.host.within(|| {
            let mut sysctls = Vec::new();
            read_all(Path::new(settings), &mut sysctls);
            sysctls.sort();
            sysctls
        });
        assert!(sysctls.len() > 100, "{sysctls:?}");
        found.extend(sysctls);
        found
    }
}

pub(crate) fn spec() -> HostSpec {
    HostSpec {
        front: "eth0".into(),
        back: "eth1".into(),
        address: BACK.into(),
        self_address: SELF.into(),
        vips: vec![VIP.into()],
    }
}

/// A node that knows the others by IPv6, with services of both families.
pub(crate) fn spec_v6() -> HostSpec {
    HostSpec {
        address: BACK_V6.into(),
        self_address: SELF_V6.into(),
        vips: vec![VIP.into(), VIP_V6.into()],
        ..spec()
    }
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited too long for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Does everything on the calling thread, which is the one in the right namespace.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

fn read_all(dir: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_all(&path, into);
        } else {
            // A secret that was never set can't be read.
            let value = fs::read_to_string(&path).unwrap_or_default();
            into.push(format!("{}={}", path.display(), value.trim()));
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} (these tests need root): {errors}"
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// One connection with a byte each way; the client's address as the server and as the client see
/// it.
pub(crate) fn exchange(
    server: &Namespace,
    client: &Namespace,
    to: impl Into<IpAddr>,
) -> (SocketAddr, SocketAddr) {
    let to: IpAddr = to.into();
    let listener = server.within(|| TcpListener::bind((to, 0)).expect("the address"));
    let port = listener.local_addr().expect("an address").port();
    let mut here = client
        .within(|| TcpStream::connect_timeout(&(to, port).into(), TIMEOUT).expect("a connection"));
    let (mut there, seen) = listener.accept().expect("a connection");
    for stream in [&there, &here] {
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    }
    let mut byte = [0];
    here.write_all(b"?").expect("sent");
    there.read_exact(&mut byte).expect("received");
    there.write_all(b"!").expect("sent");
    here.read_exact(&mut byte).expect("received");
    assert_eq!(byte, *b"!");
    assert_eq!(here.peer_addr().expect("connected").ip(), to);
    (seen, here.local_addr().expect("an address"))
}

/// The address that the kernel would choose to send from.
pub(crate) fn source(namespace: &Namespace, to: impl Into<IpAddr>) -> IpAddr {
    let to: IpAddr = to.into();
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    namespace.within(|| {
        let socket = UdpSocket::bind((any, 0)).expect("a socket");
        socket.connect((to, 9)).expect("a route");
        socket.local_addr().expect("an address").ip()
    })
}

/// One datagram that nobody waits for.
pub(crate) fn send(namespace: &Namespace, from: impl Into<IpAddr>, to: impl Into<IpAddr>) {
    let (from, to): (IpAddr, IpAddr) = (from.into(), to.into());
    namespace.within(|| {
        let socket = UdpSocket::bind((from, 0)).expect("the address");
        socket.send_to(b"?", (to, 9)).expect("sent");
    });
}

pub(crate) fn link_address(namespace: &Namespace, interface: &str) -> String {
    let line = namespace.ip(&format!("-brief link show dev {interface}"));
    let address = line.split_ascii_whitespace().nth(2).expect("an address");
    address.to_owned()
}

pub(crate) fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
