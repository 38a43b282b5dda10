//! The sockets that inspector processes attach to, one for each service that has them.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{Processes, locked, serve};
use crate::config::ProcessSocket;
use crate::current::Current;

/// How long to wait for a daemon that was killed: the kernel takes a while to close its sockets.
const ENDING: Duration = Duration::from_secs(3);

/// Why inspector processes can't attach.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The socket can't be made.
    #[error(
        "{}: cannot {doing} for the inspector processes of service {service}: {source}",
        path.display()
    )]
    Unusable {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The service.
        service: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another process listens there.
    #[error(
        "{}: another program listens on the socket for the inspector processes of service \
         {service}: choose another `inspector_socket`",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The service.
        service: String,
    },
    /// There is no such user or group.
    #[error("service {service}: {file} has no {name:?}: give `{key}` another name, or a number")]
    Account {
        /// The service.
        service: String,
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
}

/// The inspector processes of all services, and the sockets that they attach to.
#[derive(Debug, Default)]
pub struct Sockets {
    services: Mutex<HashMap<String, Service>>,
}

#[derive(Debug)]
struct Service {
    processes: Arc<Processes>,
    listening: Option<Listening>,
}

/// A socket that is open until this is dropped.
#[derive(Debug)]
struct Listening {
    path: PathBuf,
    socket: ProcessSocket,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}

impl Sockets {
    /// A service's inspector processes: the same ones for as long as the service has any.
    pub fn processes(&self, service: &str) -> Arc<Processes> {
        let mut services = locked(&self.services);
        let known = services
            .entry(service.to_owned())
            .or_insert_with(|| Service {
                processes: Arc::new(Processes::new(service)),
                listening: None,
            });
        Arc::clone(&known.processes)
    }

    /// Opens and closes sockets as a configuration says, and tells all processes of it.
    ///
    /// # Errors
    ///
    /// When a socket can't be opened.
    pub fn listen(&self, current: &Current, runtime: &Handle) -> Result<(), SocketError> {
        let config = &current.config;
        let wanted: HashMap<&str, (PathBuf, &ProcessSocket)> = config
            .services
            .iter()
            .filter_map(|service| {
                let path = config.inspector_socket(service)?;
                Some((&*service.name, (path, service.process.as_ref()?)))
            })
            .collect();
        let mut services = locked(&self.services);
        // Closes what is wanted no more, or elsewhere, before anything is opened in its place.
        services.retain(|name, service| {
            let Some((path, socket)) = wanted.get(&**name) else {
                return false;
            };
            service
                .listening
                .take_if(|open| open.path != *path || open.socket != **socket);
            true
        });
        for (name, (path, socket)) in wanted {
            let Some(service) = services.get_mut(name) else {
                continue;
            };
            service.processes.tell(current);
            if service.listening.is_some() {
                continue;
            }
            let listener = open(name, &path, socket)?;
            let unusable = unusable(name, &path);
            let _entered = runtime.enter();
            let listener = tokio::net::UnixListener::from_std(listener)
                .map_err(|source| unusable("watch the socket", source))?;
            let serving = serve::listen(listener, Arc::clone(&service.processes));
            service.listening = Some(Listening {
                path,
                socket: socket.clone(),
                task: runtime.spawn(serving),
            });
        }
        Ok(())
    }

    /// Closes all sockets, and detaches all processes.
    pub fn close(&self) {
        locked(&self.services).clear();
    }
}

fn unusable(service: &str, path: &Path) -> impl Fn(&'static str, io::Error) -> SocketError + use<> {
    let (path, service) = (path.to_owned(), service.to_owned());
    move |doing, source| SocketError::Unusable {
        path: path.clone(),
        doing,
        service: service.clone(),
        source,
    }
}

/// Opens a socket, in place of one that a dead daemon left.
fn open(service: &str, path: &Path, socket: &ProcessSocket) -> Result<UnixListener, SocketError> {
    let unusable = unusable(service, path);
    let user = account(service, "inspector_user", "/etc/passwd", &socket.user)?;
    let group = account(service, "inspector_group", "/etc/group", &socket.group)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|e| unusable("make the directory", e))?;
    }
    let patience = Instant::now() + ENDING;
    while UnixStream::connect(path).is_ok() {
        if Instant::now() > patience {
            return Err(SocketError::InUse {
                path: path.to_owned(),
                service: service.to_owned(),
            });
        }
        sleep(Duration::from_millis(20));
    }
    if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        fs::remove_file(path).map_err(|e| unusable("replace the old socket", e))?;
    }
    let listener = UnixListener::bind(path).map_err(|e| unusable("open the socket", e))?;
    // First nobody else, then the right ones. The user last: another's file is not the daemon's to change (CAP_FOWNER).
    let allow = |mode| fs::set_permissions(path, Permissions::from_mode(mode));
    let permitted = allow(0o600)
        .and_then(|()| chown(path, None, group))
        .and_then(|()| allow(if group.is_some() { 0o660 } else { 0o600 }))
        .and_then(|()| chown(path, user, None))
        .and_then(|()| listener.set_nonblocking(true));
    permitted.map_err(|e| unusable("set the permissions", e))?;
    Ok(listener)
}

/// The number of a user or group, from the file that names them.
fn account(
    service: &str,
    key: &'static str,
    file: &'static str,
    name: &Option<String>,
) -> Result<Option<u32>, SocketError> {
    let Some(name) = name else { return Ok(None) };
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let known = fs::read_to_string(file).unwrap_or_default();
    match number_of(&known, name) {
        Some(number) => Ok(Some(number)),
        None => Err(SocketError::Account {
            service: service.to_owned(),
            key,
            name: name.clone(),
            file,
        }),
    }
}

/// The number that belongs to a name in a file such as `/etc/passwd`: `name:password:number:...`.
fn number_of(file: &str, name: &str) -> Option<u32> {
    let mut lines = file.lines().map(|line| line.split(':'));
    let mut line = lines.find(|fields| fields.clone().next() == Some(name))?;
    line.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let file = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:44::/:\n";
        assert_eq!(number_of(file, "web"), Some(33));
        assert_eq!(number_of(file, "broken"), None);
        assert_eq!(number_of(file, "we"), None);
        let find = |name: &str| account("s", "inspector_user", "/etc/passwd", &Some(name.into()));
        assert_eq!(find("root").unwrap(), Some(0));
        assert_eq!(find("77").unwrap(), Some(77));
        let error = find("nobody-of-this-name").unwrap_err().to_string();
        assert!(error.contains("`inspector_user`"), "{error}");
    }

    #[test]
    fn sockets_are_replaced_but_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/web.inspector.sock");
        let socket = ProcessSocket::default();
        drop(open("web", &path, &socket).unwrap());
        let _again = open("web", &path, &socket).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = open("web", &path, &socket).unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");

        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        let error = open("web", &file, &socket).unwrap_err();
        assert!(matches!(error, SocketError::Unusable { .. }), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }
}
