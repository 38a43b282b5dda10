//! The daemon of the inspecting node: it reads, hands over, and compares a greeting.

use dts_core::addr::Addr;
use dts_core::entry::{Handover, flag};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::node::HANDOVER;
use crate::stack::now;
use crate::{ATTEMPT, END_OF_HEAD, FIRST, HANDOVER_PORT, SECOND, World, flow};

/// The daemon of the inspecting node.
pub(crate) enum Daemon {
    /// The request so far, and what is left of the greeting to be sent.
    Reading(Vec<u8>, Vec<u8>),
    /// By an attempt from this port, which began at this time.
    Connecting(Vec<u8>, SocketHandle, (u16, u32)),
    /// Waiting for the rest of the server's greeting, on the connection from this port.
    Comparing(Vec<u8>, SocketHandle, u16, Vec<u8>),
    Sending(Vec<u8>, SocketHandle),
    Done,
}

impl Daemon {
    pub(crate) fn work(self, world: &mut World, inspector: SocketHandle, greeting: &[u8]) -> Self {
        let stack = &mut world.stacks[0];
        let greeting_len = greeting.len() as u32;
        match self {
            Self::Reading(mut request, mut to_greet) => {
                request.extend(stack.drain(inspector));
                let socket = stack.socket(inspector);
                if !to_greet.is_empty() && socket.can_send() {
                    let sent = socket.send_slice(&to_greet).expect("it can send");
                    to_greet.drain(..sent);
                }
                let heard = to_greet.is_empty() && socket.send_queue() == 0;
                if !heard || !request.windows(4).any(|w| w == END_OF_HEAD) {
                    return Self::Reading(request, to_greet);
                }
                Self::attempt(world, request, HANDOVER_PORT, greeting_len)
            }
            Self::Connecting(mut request, handle, (port, since)) => {
                // What comes meanwhile is acknowledged, and so is ours to send.
                request.extend(stack.drain(inspector));
                if stack.socket(handle).state() != State::Established {
                    if now() < since + ATTEMPT {
                        return Self::Connecting(request, handle, (port, since));
                    }
                    let next = Self::attempt(world, request, port + 1, greeting_len);
                    // The next one's SYN goes first. From then on the filter, which knows the port still, keeps answers
                    // to this attempt from the kernel, which would reset what the server has.
                    world.poll();
                    world.stacks[0].forget(handle);
                    return next;
                }
                Self::Comparing(request, handle, port, greeting.to_vec())
            }
            Self::Comparing(mut request, handle, port, mut missing) => {
                request.extend(stack.drain(inspector));
                let said = stack.drain(handle);
                assert!(missing.starts_with(&said), "the server's own greeting");
                missing.drain(..said.len());
                if !missing.is_empty() {
                    return Self::Comparing(request, handle, port, missing);
                }
                stack.forget(inspector);
                note(
                    world,
                    port,
                    flag::REQUEST_END,
                    request.len() as u32,
                    greeting_len,
                );
                Self::Sending(request, handle)
            }
            Self::Sending(mut rest, handle) => {
                let socket = stack.socket(handle);
                if !rest.is_empty() && socket.can_send() {
                    let sent = socket.send_slice(&rest).expect("it can send");
                    rest.drain(..sent);
                }
                // The processing node ends the handover (DTS §2.2). It may have had the rest of the request
                // from the client itself.
                if socket.state() == State::CloseWait {
                    stack.forget(handle);
                    return Self::Done;
                }
                Self::Sending(rest, handle)
            }
            Self::Done => Self::Done,
        }
    }

    fn attempt(world: &mut World, request: Vec<u8>, port: u16, greeting: u32) -> Self {
        note(world, port, 0, 0, greeting);
        let handle = world.stacks[0].connect((FIRST, port), (SECOND, HANDOVER));
        Self::Connecting(request, handle, (port, now()))
    }
}

fn note(world: &mut World, port: u16, flags: u32, request_len: u32, greeting: u32) {
    let handover = Handover {
        flow: flow(),
        target: Addr::v4(SECOND),
        flags,
        request_len,
        greeting,
    };
    world.nodes[0].handovers.insert(port, handover);
}
