//! The library with a daemon that is played by the test, on a real socket.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use dts_core::ring::{RingHashSpec, RingPoint};
use dts_inspector::protocol::{
    EndReason, MAX_TO_DAEMON, Refusal, ToDaemon, ToProcess, VERSION, next_frame,
};
use dts_inspector::{Cluster, Error, Inspector, Member, Target};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(10);

/// The daemon's end of an attachment.
struct Daemon {
    socket: UnixStream,
    _directory: TempDir,
}

impl Daemon {
    /// Sends messages.
    fn say(&mut self, messages: &[ToProcess<'_>]) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.emit(&mut bytes));
        self.socket.write_all(&bytes).unwrap();
    }

    /// Reads one frame and has it looked at.
    fn hear(&mut self, look: impl FnOnce(ToDaemon<'_>)) {
        let mut bytes = vec![0; 4];
        self.socket.read_exact(&mut bytes).unwrap();
        let length = u32::from_be_bytes(bytes[..].try_into().unwrap()) as usize;
        bytes.resize(4 + length, 0);
        self.socket.read_exact(&mut bytes[4..]).unwrap();
        let (frame, _) = next_frame(&bytes, MAX_TO_DAEMON).unwrap().unwrap();
        look(ToDaemon::parse(frame).unwrap());
    }
}

fn cluster(epoch: u64, nodes: u8) -> Cluster {
    let members = (1..=nodes).map(|n| Member {
        name: format!("n{n}"),
        address: IpAddr::from([198, 18, 1, 10 + n]),
    });
    let points = (0..u32::from(nodes)).map(|n| RingPoint::new(u64::from(n) << 62, n));
    let hash = RingHashSpec::default();
    Cluster::new(epoch, 0, members.collect(), hash, points.collect()).unwrap()
}

fn welcome() -> ToProcess<'static> {
    ToProcess::Welcome {
        version: VERSION,
        service: "web",
    }
}

fn end() -> SocketAddr {
    SocketAddr::from(([198, 18, 0, 200], 40_000))
}

fn opened(id: u64) -> ToProcess<'static> {
    ToProcess::Opened {
        id,
        client: end(),
        local: end(),
    }
}

fn bytes(id: u64, offset: u32, data: &[u8]) -> ToProcess<'_> {
    ToProcess::Bytes {
        id,
        offset,
        last: false,
        data,
    }
}

/// Attaches to a daemon that answers with these messages.
fn attach(answer: &[ToProcess<'_>]) -> (Result<Inspector, Error>, Daemon) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.inspector.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::scope(|scope| {
        let attaching = scope.spawn(|| Inspector::attach(path.to_str().unwrap()));
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut daemon = Daemon {
            socket,
            _directory: directory,
        };
        daemon.hear(|hello| {
            let version = VERSION;
            let service = "";
            assert_eq!(hello, ToDaemon::Hello { version, service });
        });
        daemon.say(answer);
        if answer.len() < 2 {
            daemon.socket.shutdown(std::net::Shutdown::Both).unwrap();
        }
        (attaching.join().unwrap(), daemon)
    })
}

fn attached() -> (Inspector, Daemon) {
    let (inspector, daemon) = attach(&[welcome(), ToProcess::Cluster(cluster(1, 2))]);
    (inspector.unwrap(), daemon)
}

/// Whether the inspector's descriptor can be read, within some time.
fn is_readable(inspector: &Inspector, patience: Duration) -> bool {
    let mut polled = [PollFd::new(inspector, PollFlags::IN)];
    let patience = Timespec::try_from(patience).unwrap();
    poll(&mut polled, Some(&patience)).unwrap() == 1
}

#[test]
fn the_descriptor_says_when_there_is_something() {
    let (web, mut daemon) = attached();
    web.set_nonblocking(true);
    let quiet = Duration::from_millis(20);
    assert!(!is_readable(&web, quiet));
    assert!(matches!(web.accept(), Err(Error::WouldBlock)));
    daemon.say(&[opened(0)]);
    assert!(is_readable(&web, PATIENCE));
    let connection = web.accept().unwrap();
    assert!(!is_readable(&web, quiet));
    let mut buffer = [0; 8];
    assert!(matches!(
        connection.receive(&mut buffer),
        Err(Error::WouldBlock)
    ));
    assert!(matches!(web.ready(), Err(Error::WouldBlock)));
    daemon.say(&[bytes(0, 0, b"GET")]);
    assert!(is_readable(&web, PATIENCE));
    assert_eq!(web.ready().unwrap(), connection.token());
    assert!(!is_readable(&web, quiet));
    assert_eq!(connection.receive(&mut buffer).unwrap(), 3);
    let reason = EndReason::Overdue;
    daemon.say(&[ToProcess::Ended { id: 0, reason }]);
    assert!(is_readable(&web, PATIENCE));
    assert_eq!(web.ready().unwrap(), connection.token());
    let late = connection.request_handover(Target::Local, b"GET");
    assert!(matches!(late, Err(Error::Ended(EndReason::Overdue))));
    drop(daemon);
    assert!(is_readable(&web, PATIENCE));
    assert!(matches!(web.accept(), Err(Error::Gone)));
}

#[test]
fn whoever_waits_is_woken() {
    let (web, mut daemon) = attached();
    let connection = thread::scope(|scope| {
        let accepting = scope.spawn(|| web.accept());
        daemon.say(&[opened(0)]);
        accepting.join().unwrap().unwrap()
    });
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut buffer = [0; 8];
            connection.receive(&mut buffer)
        });
        daemon.say(&[bytes(0, 0, b"GET")]);
        assert_eq!(reading.join().unwrap().unwrap(), 3);
        // By a decision of another thread's, and by the end of all.
        let reading = scope.spawn(|| connection.receive(&mut [0; 8]));
        thread::sleep(Duration::from_millis(20));
        connection
            .request_handover(Target::Node("n2"), b"GET")
            .unwrap();
        assert!(matches!(reading.join().unwrap(), Err(Error::Decided)));
        daemon.hear(|message| {
            assert!(matches!(
                message,
                ToDaemon::Handover {
                    id: 0,
                    length: 3,
                    ..
                }
            ));
        });
        let accepting = [0, 1].map(|_| scope.spawn(|| web.accept()));
        thread::sleep(Duration::from_millis(20));
        web.detach();
        for accepting in accepting {
            assert!(matches!(accepting.join().unwrap(), Err(Error::Gone)));
        }
    });
}

#[test]
fn the_cluster_changes_without_being_asked_for() {
    let (web, mut daemon) = attached();
    let before = web.cluster();
    daemon.say(&[ToProcess::Cluster(cluster(2, 3)), opened(0)]);
    web.accept().unwrap();
    assert_eq!((before.epoch(), before.members().len()), (1, 2));
    assert_eq!(
        (web.cluster().epoch(), web.cluster().members().len()),
        (2, 3)
    );
}

#[test]
fn what_is_dropped_is_left() {
    let (web, mut daemon) = attached();
    daemon.say(&[opened(0), opened(1)]);
    drop(web.accept().unwrap());
    daemon.hear(|message| assert_eq!(message, ToDaemon::Leave { id: 0 }));
    web.accept().unwrap().reject().unwrap();
    daemon.hear(|message| assert_eq!(message, ToDaemon::Reject { id: 1 }));
}

#[test]
fn a_daemon_that_refuses_or_talks_nonsense_is_an_error() {
    for (reason, errno) in [
        (Refusal::Version, rustix::io::Errno::PROTONOSUPPORT),
        (Refusal::Service, rustix::io::Errno::NOENT),
        (Refusal::TooMany, rustix::io::Errno::USERS),
    ] {
        let version = VERSION;
        let (refused, _) = attach(&[ToProcess::Refused { version, reason }]);
        assert_eq!(refused.unwrap_err().errno(), errno.raw_os_error());
    }
    let (cut, _) = attach(&[welcome()]);
    assert!(matches!(cut, Err(Error::Gone)));
    let (wrong, _) = attach(&[opened(0), welcome()]);
    assert!(matches!(wrong, Err(Error::Gone)));

    let (web, mut daemon) = attached();
    daemon.socket.write_all(b"\0\0\0\x01\x77").unwrap();
    assert!(matches!(web.accept(), Err(Error::Gone)));
}

#[test]
fn without_a_daemon_the_socket_is_named() {
    let error = Inspector::attach("/nowhere/web").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nowhere/web: cannot connect")
    );
    assert_eq!(error.errno(), rustix::io::Errno::NOENT.raw_os_error());
}
