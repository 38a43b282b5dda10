//! Removal of labs that a program made, however the program ends.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{LabError, Result};
use crate::lab::{Lab, down};
use crate::spec::LabSpec;

/// A signal has asked to stop: no lab is made any more.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Held for reading while a lab is made.
static BUSY: RwLock<()> = RwLock::new(());
/// The labs to remove when a signal comes.
static GUARDED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A lab that is removed when this value is dropped, also by a panic, and on Ctrl-C, SIGTERM and
/// SIGHUP once [`remove_on_signals`] was called.
#[derive(Debug)]
pub struct LabGuard {
    lab: Lab,
}

impl LabGuard {
    /// Makes a lab, see [`Lab::up`].
    pub fn up(spec: LabSpec) -> Result<Self> {
        let name = spec.name.clone();
        guarded().insert(name.clone());
        match Lab::up(spec) {
            Ok(lab) => Ok(Self { lab }),
            Err(error) => {
                leave_the_end_to_the_signal();
                guarded().remove(&name);
                Err(error)
            }
        }
    }

    /// Leaves the lab standing.
    pub fn keep(self) {
        leave_the_end_to_the_signal();
        guarded().remove(&self.lab.spec().name);
        std::mem::forget(self);
    }
}

impl Deref for LabGuard {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for LabGuard {
    fn drop(&mut self) {
        leave_the_end_to_the_signal();
        if let Err(error) = self.lab.down() {
            eprintln!("{error}");
        }
        guarded().remove(&self.lab.spec().name);
    }
}

/// From now on, Ctrl-C, SIGTERM and SIGHUP remove this program's guarded labs and end the program
/// with status 128 plus the signal's number, as a shell reports it. For programs; a library leaves
/// signals alone.
pub fn remove_on_signals() -> Result<()> {
    static INSTALLED: Once = Once::new();
    let mut result = Ok(());
    INSTALLED.call_once(|| {
        result = Signals::new([SIGINT, SIGTERM, SIGHUP]).map(|mut signals| {
            thread::spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    INTERRUPTED.store(true, Ordering::Relaxed);
                    // A lab in the making gives up soon, and is removed by its maker.
                    let _idle = BUSY.write().unwrap_or_else(PoisonError::into_inner);
                    for name in guarded().iter() {
                        if let Err(error) = down(name) {
                            eprintln!("{error}");
                        }
                    }
                    std::process::exit(128 + signal);
                }
            });
        });
    });
    result.map_err(LabError::system("cannot handle signals"))
}

/// Once a signal has come, its thread removes the labs and ends the program. What fails meanwhile
/// fails because of that, and must neither be reported nor end the program before the removal is done.
fn leave_the_end_to_the_signal() {
    while INTERRUPTED.load(Ordering::Relaxed) {
        thread::park();
    }
}

/// Keeps the program from ending by a signal until the result is dropped.
pub(crate) fn busy() -> RwLockReadGuard<'static, ()> {
    BUSY.read().unwrap_or_else(PoisonError::into_inner)
}

/// Fails when a signal has asked to stop.
pub(crate) fn check_interrupted() -> Result<()> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        true => Err(LabError::Interrupted),
        false => Ok(()),
    }
}

fn guarded() -> MutexGuard<'static, BTreeSet<String>> {
    GUARDED.lock().unwrap_or_else(PoisonError::into_inner)
}
