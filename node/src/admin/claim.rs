//! One daemon per socket.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;

/// Who may talk to the daemon: its user and its group.
const MODE: u32 = 0o660;

/// How long to wait for a daemon that has ended or was killed: the kernel takes a while to close its sockets.
const ENDING: Duration = Duration::from_secs(3);

/// The right to be the daemon of a socket.
///
/// It is a lock on a file beside the socket, which the kernel releases when the daemon ends, however
/// it ends. So whoever has the lock knows that a socket file that is there has no daemon behind it,
/// and two daemons that start at the same time can't replace each other's.
///
/// Dropping it removes the socket file. The lock file stays: to remove it would let two processes
/// hold locks on two files of the same name.
#[derive(Debug)]
pub struct Claim {
    socket: PathBuf,
    _lock: File,
}

/// Why this process is not the daemon of its socket.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process is.
    #[error(
        "{}: the daemon of this node is already running{}: stop that one first, \
         or reload it with `dts reload`",
        socket.display(), pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    AlreadyRunning {
        /// The socket.
        socket: PathBuf,
        /// The daemon; `None` when it has not said yet.
        pid: Option<u32>,
    },
    /// A file can't be made, locked or written.
    #[error(
        "{}: cannot {doing}: {source}; is `run_dir` of [node] a directory that the daemon may write?",
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Claim {
    /// Takes the right, and makes the socket's directory if need be.
    ///
    /// # Errors
    ///
    /// When another daemon has it, or when the files can't be made.
    pub fn take(socket: &Path) -> Result<Self, ClaimError> {
        if let Some(directory) = socket.parent() {
            fs::create_dir_all(directory)
                .map_err(ClaimError::unusable("make the directory", directory))?;
        }
        let path = lock_path(socket);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(ClaimError::unusable("open the lock file", &path))?;
        let patience = Instant::now() + ENDING;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let pid = read_pid(&mut lock);
                    if pid.is_some_and(is_ending) && Instant::now() < patience {
                        sleep(Duration::from_millis(5));
                        continue;
                    }
                    let socket = socket.to_owned();
                    return Err(ClaimError::AlreadyRunning { socket, pid });
                }
                Err(TryLockError::Error(source)) => {
                    return Err(ClaimError::unusable("lock", &path)(source));
                }
            }
        }
        write_pid(&mut lock).map_err(ClaimError::unusable("write the lock file", &path))?;
        Ok(Self {
            socket: socket.to_owned(),
            _lock: lock,
        })
    }

    /// Opens the socket, in place of one that a dead daemon left. From now on clients can connect.
    ///
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// When the socket can't be made.
    pub fn listen(&self) -> Result<UnixListener, ClaimError> {
        let unusable = |doing| ClaimError::unusable(doing, &self.socket);
        match fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unusable("replace the old socket")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&self.socket).map_err(unusable("open the socket"))?;
        fs::set_permissions(&self.socket, Permissions::from_mode(MODE))
            .map_err(unusable("set the permissions"))?;
        Ok(listener)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // It may never have been there.
        let _ = fs::remove_file(&self.socket);
    }
}

impl ClaimError {
    fn unusable(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Unusable {
            path: path.to_owned(),
            doing,
            source,
        }
    }
}

/// Whether a process runs no more, and only its remains are being cleared away.
fn is_ending(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The state follows the name, which may have anything in it.
        Ok(stat) => {
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
            state.is_some_and(|state| state.starts_with(['Z', 'X']))
        }
        Err(_) => true,
    }
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn read_pid(lock: &mut File) -> Option<u32> {
    lock.rewind().ok()?;
    let mut text = String::new();
    lock.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_daemon_is_told_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/demo-n1.sock");
        let claim = Claim::take(&socket).unwrap();
        let _listener = claim.listen().unwrap();
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);

        let error = Claim::take(&socket).unwrap_err();
        let text = format!("already running (pid {})", std::process::id());
        assert!(error.to_string().contains(&text), "{error}");
        assert!(socket.exists(), "the failed attempt took the socket away");
    }

    #[tokio::test]
    async fn what_a_dead_daemon_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("demo-n1.sock");
        // A killed daemon leaves the file of its socket, and a lock file that nobody locks.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        fs::write(lock_path(&socket), "4294967295 and something longer\n").unwrap();

        let claim = Claim::take(&socket).unwrap();
        let _listener = claim.listen().unwrap();
        std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let pid = fs::read_to_string(lock_path(&socket)).unwrap();
        assert_eq!(pid, format!("{}\n", std::process::id()));
    }

    #[tokio::test]
    async fn an_ended_daemon_leaves_no_socket() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("demo-n1.sock");
        let claim = Claim::take(&socket).unwrap();
        let _listener = claim.listen().unwrap();
        drop(claim);
        assert!(!socket.exists());
        Claim::take(&socket).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = Claim::take(Path::new("/proc/dts/demo-n1.sock")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("/proc/dts: cannot make the directory"),
            "{text}"
        );
        assert!(text.contains("`run_dir`"), "{text}");
    }
}
