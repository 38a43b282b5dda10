//! The numbers by which a program names its inspectors and connections.

use std::collections::HashMap;
use std::ffi::c_int;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use dts_inspector::{Connection, Inspector, Token};

/// Those of this process.
pub(crate) static HANDLES: LazyLock<Handles> = LazyLock::new(Handles::default);

/// Connections' numbers begin here: above every descriptor that a process can have, so that a system call that is given
/// one by mistake fails.
const FIRST: c_int = 1 << 30;

#[derive(Default)]
pub(crate) struct Handles(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    inspectors: HashMap<c_int, Arc<Inspector>>,
    connections: HashMap<c_int, (c_int, Arc<Connection>)>,
    numbers: HashMap<(c_int, Token), c_int>,
    given: c_int,
}

impl Handles {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_inspector(&self, inspector: Inspector) -> c_int {
        let number = inspector.as_fd().as_raw_fd();
        self.tables().inspectors.insert(number, Arc::new(inspector));
        number
    }

    pub(crate) fn inspector(&self, number: c_int) -> Option<Arc<Inspector>> {
        self.tables().inspectors.get(&number).cloned()
    }

    /// Ends an attachment; its connections' numbers mean nothing any more.
    pub(crate) fn remove_inspector(&self, number: c_int) -> Option<()> {
        let mut tables = self.tables();
        let inspector = tables.inspectors.remove(&number)?;
        // Dropped outside the lock: they tell the daemon.
        let gone: Vec<_> = tables
            .connections
            .extract_if(|_, (owner, _)| *owner == number)
            .collect();
        tables.numbers.retain(|(owner, _), _| *owner != number);
        drop(tables);
        inspector.detach();
        drop(gone);
        Some(())
    }

    /// `None` when the attachment has been ended meanwhile.
    pub(crate) fn add_connection(&self, inspector: c_int, connection: Connection) -> Option<c_int> {
        let mut tables = self.tables();
        if !tables.inspectors.contains_key(&inspector) {
            return None;
        }
        let number = loop {
            let number = FIRST + tables.given;
            tables.given = (tables.given + 1) & (FIRST - 1);
            if !tables.connections.contains_key(&number) {
                break number;
            }
        };
        tables
            .numbers
            .insert((inspector, connection.token()), number);
        tables
            .connections
            .insert(number, (inspector, Arc::new(connection)));
        Some(number)
    }

    /// EBADF when it is none.
    pub(crate) fn connection(&self, number: c_int) -> Result<Arc<Connection>, c_int> {
        let tables = self.tables();
        let known = tables.connections.get(&number);
        known
            .map(|(_, connection)| Arc::clone(connection))
            .ok_or(libc::EBADF)
    }

    pub(crate) fn number(&self, inspector: c_int, token: Token) -> Option<c_int> {
        self.tables().numbers.get(&(inspector, token)).copied()
    }

    pub(crate) fn remove_connection(&self, number: c_int) {
        let mut tables = self.tables();
        if let Some((inspector, connection)) = tables.connections.remove(&number) {
            tables.numbers.remove(&(inspector, connection.token()));
        }
    }
}
