//! Processor time that a place uses: its processes' and its receive path's.
//!
//! The receive path counts because it is a kernel thread (threaded NAPI) in the place's control group. veth has its
//! NAPI receive only what comes in single segments: as long as the hub's end of the wire takes large ones (TSO), they
//! go round it, in a soft interrupt. So the hub cuts them up for such a place, and the place merges them again (GRO),
//! as with a network card.
//!
//! What a place *sends* goes through the hub's bridge, and is cut up there, in a soft interrupt, which the kernel
//! charges to whoever was interrupted: mostly the sender.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cgroup::{NodeGroup, ROOT};
use crate::error::{LabError, Result};
use crate::lab::Lab;
use crate::lock::Lock;
use crate::netns;
use crate::place::{Network, Place};

impl Lab {
    /// Has a place's processor time counted from now on: that of what is started there later, and of its receive
    /// path. For places that can have no CPU quota, such as a client that a proxy will run on; a node with a quota is
    /// counted anyway, from its start.
    pub fn count_cpu(&self, place: Place) -> Result<()> {
        self.spec().check_place(place)?;
        let group = NodeGroup::create_counting(Path::new(ROOT), &self.group_name(place))?;
        self.thread_receive_path(place, &group)
    }

    /// Processor time that a place has used so far, if it is counted: a node with a CPU quota, or
    /// [`Lab::count_cpu`].
    pub fn cpu_time(&self, place: Place) -> Result<Duration> {
        self.spec().check_place(place)?;
        self.group(place)
            .and_then(|group| group.cpu_time())
            .ok_or_else(|| {
                LabError::InvalidSpec(format!(
                    "the processor time of {place} is not counted: give it a CPU quota, or call count_cpu"
                ))
            })
    }

    /// Makes a kernel thread of the receive path of each of a place's interfaces, and puts it into the group.
    pub(crate) fn thread_receive_path(&self, place: Place, group: &NodeGroup) -> Result<()> {
        let namespace = self.namespace(place)?;
        let _lock = Lock::acquire()?;
        let connected = |network: &Network| place.address(*network).is_some();
        let wait_ns = 1000 * u64::from(self.rx_usecs(place));
        // A receive path that had something to do looks again after that time, and is not woken meanwhile.
        let defer = u32::from(wait_ns > 0);
        for network in Network::ALL.into_iter().filter(connected) {
            let interface = network.interface();
            group.adopt_receive_path(interface, || {
                let settings = format!("/sys/class/net/{interface}");
                let script = format!(
                    "ethtool -K {interface} gro on && echo 1 > {settings}/threaded && \
                     echo {wait_ns} > {settings}/gro_flush_timeout && \
                     echo {defer} > {settings}/napi_defer_hard_irqs"
                );
                // /sys/class/net shows the namespace that /sys was mounted in: `ip netns exec`
                // mounts it anew.
                netns::run(
                    Command::new("ip").args(["netns", "exec", &namespace, "sh", "-c", &script]),
                )
                .map(drop)
            })?;
        }
        self.receive_in_thread(place, true)
    }

    fn rx_usecs(&self, place: Place) -> u32 {
        match place {
            Place::Node(i) => self.spec().nodes[usize::from(i) - 1].rx_usecs,
            Place::Hub | Place::Client(_) => 0,
        }
    }

    /// Has the kernel threads of a counted place's receive path do its work, as they do from the start, or has the
    /// soft interrupts of whoever sends do it, as in places that are not counted: then large segments stay whole, and
    /// are counted as the sender's.
    pub fn receive_in_thread(&self, place: Place, threads: bool) -> Result<()> {
        let hub = self.namespace(Place::Hub)?;
        let large_segments = if threads { "off" } else { "on" };
        self.spec().check_place(place)?;
        let connected = |network: &Network| place.address(*network).is_some();
        for network in Network::ALL.into_iter().filter(connected) {
            let port = place.hub_port(network);
            let mut command = Command::new("ethtool");
            netns::run_in(&hub, command.args(["-K", &port, "tso", large_segments]))?;
        }
        Ok(())
    }
}
