//! The undecided connections of a service, of which there may only be so many.
//!
//! Over the limit the one that has waited longest makes room, and the new one is let in. An ordinary client's request is
//! there within a round trip: who has waited longest is the least likely to be one. If new connections were refused
//! instead, as many slow senders as the limit allows would lock everybody out for as long as a connection may be undecided.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dts_core::addr::FlowKey;
use tokio::sync::Notify;

/// How many open files are left for everything else: handovers, the sockets that rest for them, whoever asks the daemon.
const OTHER_FILES: u64 = 1024;

/// How many open files an undecided connection takes: its socket, and the event loop's.
const FILES: u64 = 2;

/// How many undecided connections each of `services` services may have that would have `wanted`, where the process may
/// have `files` open files.
#[must_use]
pub fn fitting(wanted: usize, services: usize, files: u64) -> usize {
    let share = (files - OTHER_FILES.min(files / 2)) / FILES / services.max(1) as u64;
    wanted.min(usize::try_from(share).unwrap_or(usize::MAX).max(1))
}

/// A service's undecided connections: those that inspectors' threads wait for, and those whose segments are being
/// collected to be adopted.
#[derive(Debug)]
pub struct Waiting {
    most: usize,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    /// The next one's number: they ascend in the order of arrival.
    next: u64,
    waiters: BTreeMap<u64, (FlowKey, Arc<Call>)>,
}

/// Tells a waiting connection that it has to make room.
#[derive(Debug, Default)]
struct Call {
    made: AtomicBool,
    notify: Notify,
}

/// A connection's place among those that wait; it is free again when this is dropped.
#[derive(Debug)]
pub struct Waiter {
    waiting: Arc<Waiting>,
    number: u64,
    call: Arc<Call>,
}

impl Waiting {
    /// Room for `most` connections; for one if that is 0.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            all: Mutex::default(),
        })
    }

    /// How many connections there may be.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.locked().waiters.len()
    }

    /// Lets a connection in. With the flow of the one that was told to make room for it, if it took that.
    #[must_use]
    pub fn enter(self: &Arc<Self>, flow: FlowKey) -> (Waiter, Option<FlowKey>) {
        let call = Arc::<Call>::default();
        let mut all = self.locked();
        let number = all.next;
        all.next += 1;
        let gone = if all.waiters.len() >= self.most {
            all.dismiss()
        } else {
            None
        };
        all.waiters.insert(number, (flow, Arc::clone(&call)));
        drop(all);
        let waiter = Waiter {
            waiting: Arc::clone(self),
            number,
            call,
        };
        (waiter, gone)
    }

    fn locked(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn dismiss(&mut self) -> Option<FlowKey> {
        let (_, (flow, call)) = self.waiters.pop_first()?;
        call.made.store(true, Ordering::Release);
        // Kept for who doesn't listen yet.
        call.notify.notify_one();
        Some(flow)
    }
}

impl Waiter {
    /// Whether the connection has to make room for another one.
    #[must_use]
    pub fn must_go(&self) -> bool {
        self.call.made.load(Ordering::Acquire)
    }

    /// Returns when the connection has to make room.
    pub async fn dismissed(&self) {
        while !self.must_go() {
            self.call.notify.notified().await;
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiting.locked().waiters.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use dts_core::addr::Addr;

    use super::*;

    fn flow(port: u16) -> FlowKey {
        FlowKey {
            remote: Addr::v4([198, 18, 0, 201]),
            local: Addr::v4([198, 18, 0, 100]),
            remote_port: port,
            local_port: 80,
        }
    }

    #[test]
    fn who_has_waited_longest_makes_room() {
        let waiting = Waiting::new(2);
        let (first, none) = waiting.enter(flow(1));
        assert_eq!(none, None);
        let (second, none) = waiting.enter(flow(2));
        assert_eq!(none, None);
        let (third, gone) = waiting.enter(flow(3));
        assert_eq!(gone, Some(flow(1)));
        assert!(first.must_go() && !second.must_go() && !third.must_go());
        assert_eq!(waiting.count(), 2);
        // It has no place any more that it could give back.
        drop(first);
        assert_eq!(waiting.count(), 2);
        drop(second);
        assert_eq!(waiting.count(), 1);
        assert_eq!(waiting.enter(flow(4)).1, None);
    }

    #[test]
    fn a_limit_of_none_is_one() {
        let waiting = Waiting::new(0);
        assert_eq!(waiting.most(), 1);
        let (_first, none) = waiting.enter(flow(1));
        assert_eq!(none, None);
        assert_eq!(waiting.enter(flow(2)).1, Some(flow(1)));
    }

    #[test]
    fn open_files_are_shared_by_the_services() {
        assert_eq!(fitting(8192, 1, 20_000), 8192);
        assert_eq!(fitting(8192, 4, 20_000), 2372);
        assert_eq!(fitting(77, 4, 20_000), 77);
        assert_eq!(fitting(8192, 0, 20_000), 8192);
        assert_eq!(fitting(8192, 4, 256), 16);
        assert_eq!(fitting(8192, 4, 0), 1);
    }

    #[tokio::test]
    async fn who_is_dismissed_hears_of_it_before_and_after_it_listens() {
        let waiting = Waiting::new(1);
        let (first, _) = waiting.enter(flow(1));
        let (second, _) = waiting.enter(flow(2));
        first.dismissed().await;
        first.dismissed().await;
        let (_third, _) = tokio::join!(second.dismissed(), async {
            drop(waiting.enter(flow(3)));
        });
    }
}
