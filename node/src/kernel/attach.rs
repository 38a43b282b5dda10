//! Attaching the programs so that they stay when the daemon goes.
//!
//! From Linux 6.6 on, each program is attached by a tcx link that is pinned beside the maps; a restarted
//! daemon puts its own program into the link, with no packet in between seeing none. Older kernels
//! have the clsact queueing discipline, where a filter stays until it is deleted.
//!
//! Where front and back are one interface, the back program comes first: what is no handover frame goes
//! on to the front program.

use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;

use super::FilterError;

/// Whatever the kernel or the loader said against attaching.
type AttachError = Box<dyn std::error::Error + Send + Sync>;

/// How programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachMode {
    /// Pinned tcx links (Linux 6.6).
    Tcx,
    /// Filters of the clsact queueing discipline.
    Clsact,
}

impl AttachMode {
    /// The better one of those that the running kernel has.
    #[must_use]
    pub fn detect() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }

    /// The name in messages and in `dts status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

impl std::str::FromStr for AttachMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Tcx, Self::Clsact]
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| format!("{name:?} is neither `tcx` nor `clsact`"))
    }
}

/// Where the programs go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The front interface's name.
    pub front: String,
    /// The back interface's name.
    pub back: String,
    /// How.
    pub mode: AttachMode,
}

/// A program, and the place it is for.
struct Place<'a> {
    program: &'static str,
    interface: &'a str,
    direction: TcAttachType,
    priority: u16,
}

/// The clsact priorities of the programs: their order where there is one interface, and the numbers by
/// which a restarted daemon finds them.
const BACK_PRIORITY: u16 = 0x0d75;
const FRONT_PRIORITY: u16 = BACK_PRIORITY + 1;

impl Attachment {
    fn places(&self) -> [Place<'_>; 4] {
        let place = |program, interface, direction, priority| Place {
            program,
            interface,
            direction,
            priority,
        };
        [
            place(
                "back_ingress",
                &*self.back,
                TcAttachType::Ingress,
                BACK_PRIORITY,
            ),
            place(
                "front_ingress",
                &*self.front,
                TcAttachType::Ingress,
                FRONT_PRIORITY,
            ),
            place(
                "back_egress",
                &*self.back,
                TcAttachType::Egress,
                BACK_PRIORITY,
            ),
            place(
                "front_egress",
                &*self.front,
                TcAttachType::Egress,
                FRONT_PRIORITY,
            ),
        ]
    }

    /// Attaches the four programs, in the place of those of an earlier daemon.
    pub(super) fn attach(&self, ebpf: &mut Ebpf, pins: &Path) -> Result<(), FilterError> {
        for place in self.places() {
            let program: &mut SchedClassifier = ebpf
                .program_mut(place.program)
                .ok_or(FilterError::Object {
                    what: place.program,
                })?
                .try_into()?;
            let attached = match self.mode {
                AttachMode::Tcx => place.tcx(program, &link_pin(pins, place.program)),
                AttachMode::Clsact => place.clsact(program),
            };
            attached.map_err(|error| FilterError::Attach {
                program: place.program,
                interface: place.interface.to_owned(),
                error,
            })?;
            // What an earlier daemon attached in the other way would see each packet, too.
            match self.mode {
                AttachMode::Tcx => place.detach_clsact(),
                AttachMode::Clsact => place.detach_tcx(pins),
            }
        }
        Ok(())
    }

    /// Takes all programs off, whichever way they are attached. Missing ones are fine.
    pub(super) fn detach(&self, pins: &Path) {
        for place in self.places() {
            place.detach_tcx(pins);
            place.detach_clsact();
        }
    }
}

fn link_pin(pins: &Path, program: &str) -> PathBuf {
    pins.join(format!("link_{program}"))
}

impl Place<'_> {
    /// Unpins the link, which takes the program off. There may be none.
    fn detach_tcx(&self, pins: &Path) {
        let _ = std::fs::remove_file(link_pin(pins, self.program));
    }

    /// Deletes the filter. There may be none.
    fn detach_clsact(&self) {
        let _ = qdisc_detach_program(self.interface, self.direction, self.program);
    }

    fn tcx(&self, program: &mut SchedClassifier, pin: &Path) -> Result<(), AttachError> {
        let id = match PinnedLink::from_pin(pin) {
            Ok(old) => program.attach_to_link(FdLink::from(old).try_into()?)?,
            Err(LinkError::SyscallError(e))
                if e.io_error.kind() == std::io::ErrorKind::NotFound =>
            {
                let order = TcAttachOptions::TcxOrder(LinkOrder::last());
                let id = program.attach_with_options(self.interface, self.direction, order)?;
                let link: FdLink = program.take_link(id)?.try_into()?;
                link.pin(pin)?;
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        // The pin keeps the link; the handle must not be dropped through the program, which detaches.
        drop(program.take_link(id)?);
        Ok(())
    }

    fn clsact(&self, program: &mut SchedClassifier) -> Result<(), AttachError> {
        match qdisc_add_clsact(self.interface) {
            Err(e) if !is_exists(&e) => return Err(e.into()),
            _ => {}
        }
        let options = NlOptions {
            priority: self.priority,
            handle: TcHandle::new(0, 1),
            ..NlOptions::default()
        };
        let attach = TcAttachOptions::Netlink(options);
        let id = match program.attach_with_options(self.interface, self.direction, attach) {
            Ok(id) => id,
            Err(ProgramError::TcError(e)) if is_exists(&e) => {
                let old = SchedClassifierLink::attached(
                    self.interface,
                    self.direction,
                    self.priority,
                    TcHandle::new(0, 1),
                    None,
                )?;
                program.attach_to_link(old)?
            }
            Err(e) => return Err(e.into()),
        };
        // Dropping the link would delete the filter.
        std::mem::forget(program.take_link(id)?);
        Ok(())
    }
}

fn is_exists(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && io.raw_os_error() == Some(libc::EEXIST)
        {
            return true;
        }
        cause = e.source();
    }
    error.to_string().contains("File exists")
}
