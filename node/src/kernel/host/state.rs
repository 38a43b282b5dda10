//! The note of what was changed on the host.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::change::Change;
use super::error::HostError;
use super::view::Link;

/// Changes whenever the format does.
const VERSION: u32 = 1;

/// Changes to the host that have been made, or were about to be, oldest first.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) changes: Vec<Change>,
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// What was changed is gone with the system that it was changed on.
    boot: String,
    changes: Vec<Change>,
}

impl State {
    /// Reads the file; nothing is noted if there is none, or if it was written before the system
    /// was started.
    pub(super) fn load(path: &Path) -> Result<Self, HostError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(HostError::state_file("read", path)(error)),
        };
        let contents = parse(&text).map_err(|source| HostError::StateFormat {
            path: path.to_owned(),
            source,
        })?;
        let changes = if contents.boot == boot()? {
            contents.changes
        } else {
            Vec::new()
        };
        Ok(Self { changes })
    }

    /// Replaces the file at one stroke; removes it when nothing is noted.
    pub(super) fn save(&self, path: &Path) -> Result<(), HostError> {
        if self.changes.is_empty() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(HostError::state_file("remove", path)(error))
                }
                _ => Ok(()),
            };
        }
        let contents = Contents {
            version: VERSION,
            boot: boot()?,
            changes: self.changes.clone(),
        };
        let text = serde_json::to_vec_pretty(&contents).expect("nothing in it that JSON lacks");
        replace(path, &text).map_err(HostError::state_file("write", path))
    }

    /// Forgets what went with its interface, and follows those that were renamed.
    pub(super) fn follow_interfaces(&mut self, links: &[Link]) {
        self.changes.retain_mut(|change| {
            let noted = change.interface_mut();
            let mut links = links.iter();
            match links.find(|link| link.interface.index == noted.index) {
                Some(link) => {
                    noted.clone_from(&link.interface);
                    true
                }
                None => false,
            }
        });
    }
}

fn parse(text: &str) -> serde_json::Result<Contents> {
    /// Read first: another version may differ in everything else.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_str(text)?;
    if version != VERSION {
        let message = format!("its version is {version} instead of {VERSION}");
        return Err(serde::de::Error::custom(message));
    }
    serde_json::from_str(text)
}

/// The kernel's name for the time since it was started.
fn boot() -> Result<String, HostError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(PATH).map_err(HostError::kernel(format!("read {PATH}")))?;
    Ok(id.trim().to_owned())
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut new = PathBuf::from(path).into_os_string();
    new.push(".new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    // The note must be there before the change, also when the power fails on a disk that keeps it.
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::interfaces::Interface;
    use super::*;

    fn interface(name: &str, index: u32) -> Interface {
        Interface {
            name: name.into(),
            index,
        }
    }

    fn address(interface: Interface) -> Change {
        Change::Address {
            interface,
            address: Ipv4Addr::new(198, 18, 0, 100).into(),
        }
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("not-yet/host.json");
        (dir, path)
    }

    #[test]
    fn reads_what_it_wrote() {
        let (_dir, path) = file();
        assert_eq!(State::load(&path).expect("no file").changes, []);
        let changes = vec![address(interface("lo", 1))];
        let state = State {
            changes: changes.clone(),
        };
        state.save(&path).expect("saved");
        assert_eq!(State::load(&path).expect("loaded").changes, changes);
        State::default().save(&path).expect("removed");
        assert!(!path.exists());
    }

    #[test]
    fn forgets_what_was_before_the_system_was_started() {
        let (_dir, path) = file();
        let state = State {
            changes: vec![address(interface("lo", 1))],
        };
        state.save(&path).expect("saved");
        let text = fs::read_to_string(&path).expect("a file");
        let other = text.replace(&boot().expect("a boot id"), "another");
        assert_ne!(other, text);
        fs::write(&path, other).expect("written");
        assert_eq!(State::load(&path).expect("loaded").changes, []);
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let (_dir, path) = file();
        fs::create_dir(path.parent().expect("a folder")).expect("created");
        for (text, problem) in [
            ("{\"version\": 2}", "its version is 2 instead of 1"),
            ("{\"version\": 1}", "missing field `boot`"),
            ("", "EOF"),
        ] {
            fs::write(&path, text).expect("written");
            let error = State::load(&path).expect_err(text).to_string();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn follows_an_interface_by_its_index() {
        let mut state = State {
            changes: vec![
                address(interface("old", 7)),
                // Another one has its name now.
                address(interface("eth0", 8)),
            ],
        };
        let link = |name: &str, index| Link {
            interface: interface(name, index),
            mtu: 1500,
            ethernet: None,
            up: true,
            controller: None,
        };
        state.follow_interfaces(&[link("new", 7), link("eth0", 9)]);
        assert_eq!(state.changes, [address(interface("new", 7))]);
    }
}
