//! A handover on a fake clock: a client, the node that inspects its connection and the node that processes
//! it, each with a TCP of its own (smoltcp), joined by `dts_core::decide` alone, over networks that lose,
//! repeat, delay and so reorder packets.

mod daemon;
mod node;
mod paws;
mod stack;

use std::collections::BTreeMap;

use dts_core::addr::{Addr, FlowKey};
use dts_core::decide::{Ownership, Socket};
use dts_core::entry::{flag, role, state};
use dts_core::segment::{ACK, FIN, RST, SYN};
use dts_core::seq::Seq;
use proptest::prelude::*;
use smoltcp::socket::tcp::State;

use daemon::Daemon;
use node::{INSPECTOR, Node, Packet, To, VIP, WEB};
use paws::Paws;
use stack::{Stack, now, set_now};

const CLIENT: ([u8; 4], u16) = ([198, 18, 0, 200], 40_000);
const FIRST: [u8; 4] = [198, 18, 1, 11];
const SECOND: [u8; 4] = [198, 18, 1, 12];
/// The port of the first attempt to reach the second node; each later one has the next.
const HANDOVER_PORT: u16 = 20_001;
/// How long each attempt waits, in milliseconds: often not long enough, and its SYN may be overtaken by the next one's.
const ATTEMPT: u32 = 20;

/// A request is a head, up to this mark, and a body.
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
/// Ten minutes: far more than any retransmission takes.
const PATIENCE: u32 = 600_000;

/// Longer than any packet is on its way, there and back.
const QUIET: u32 = 200;

/// How bad the networks are.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Per cent of packets lost, and repeated.
    loss: u8,
    repeat: u8,
    /// The longest delay in milliseconds.
    delay: u32,
}

enum At {
    Client,
    /// From the client, at one of the nodes: each has a copy of its own, and loses its own.
    Front(usize),
    /// From the other node.
    Back(usize),
}

struct World {
    rng: fastrand::Rng,
    weather: Weather,
    wire: BTreeMap<(u32, u64), (At, Packet)>,
    sent: u64,
    client: Stack,
    stacks: [Stack; 2],
    nodes: [Node; 2],
    /// The server's kernel drops what looks old.
    paws: Paws,
    watch: Watch,
}

/// What the client has been told.
#[derive(Default)]
struct Watch {
    isn: Option<Seq>,
    client_isn: Option<Seq>,
    /// The last timestamp value that left for the client from each node.
    tsval: [Option<u32>; 2],
    server_closed: bool,
    /// Its socket is closed on both sides.
    server_gone: bool,
}

fn client_clock() -> u32 {
    now().wrapping_add(0xffff_ff00)
}

fn first_clock() -> u32 {
    now().wrapping_add(70_000)
}

fn second_clock() -> u32 {
    now().wrapping_sub(5_000)
}

fn flow() -> FlowKey {
    FlowKey {
        remote: Addr::v4(CLIENT.0),
        local: Addr::v4(VIP),
        remote_port: CLIENT.1,
        local_port: WEB,
    }
}

impl World {
    fn new(seed: u64, weather: Weather) -> Self {
        set_now(1000);
        let mut rng = fastrand::Rng::with_seed(seed);
        // Different buffers: different window scales on the two nodes.
        Self {
            client: Stack::new(&[CLIENT.0], rng.u64(..), client_clock, 200_000),
            stacks: [
                Stack::new(&[VIP, FIRST], rng.u64(..), first_clock, 70_000),
                Stack::new(&[VIP, SECOND], rng.u64(..), second_clock, 1_000_000),
            ],
            nodes: [
                Node::new(FIRST, Ownership::Owner),
                Node::new(SECOND, Ownership::NotOwner),
            ],
            rng,
            weather,
            wire: BTreeMap::new(),
            sent: 0,
            paws: Paws::default(),
            watch: Watch::default(),
        }
    }

    fn send(&mut self, at: impl Fn() -> At, packet: &Packet) {
        let mut copies = 1 + u8::from(self.rng.u8(..100) < self.weather.repeat);
        if self.rng.u8(..100) < self.weather.loss {
            copies -= 1;
        }
        let delay = self.weather.delay;
        for _ in 0..copies {
            let arrives = now() + 1 + self.rng.u32(0..=delay);
            self.sent += 1;
            self.wire
                .insert((arrives, self.sent), (at(), packet.clone()));
        }
    }

    /// Lets everybody work until nobody has anything to say at this instant.
    fn poll(&mut self) {
        for packet in self.client.poll() {
            let packet = Packet::parse(&packet);
            self.watch.client_isn.get_or_insert(packet.header.seq);
            for node in 0..2 {
                self.send(|| At::Front(node), &packet);
            }
        }
        for node in 0..2 {
            for packet in self.stacks[node].poll() {
                let packet = Packet::parse(&packet);
                if packet.src == VIP {
                    if node == 1 {
                        self.paws.sends(&packet);
                    }
                    for to in self.nodes[node].front_egress(packet) {
                        match to {
                            To::Client(packet) => {
                                self.watch.leaves(node, &packet);
                                assert!(self.may_speak(node), "nobody has confirmed the handover");
                                self.send(|| At::Client, &packet);
                            }
                            To::Peer(packet) => self.send(|| At::Back(0), &packet),
                        }
                    }
                } else if let Some(packet) = self.nodes[node].back_egress(packet) {
                    self.send(|| At::Back(1), &packet);
                }
            }
        }
    }

    /// Moves the clock to whatever happens next, and lets it happen.
    fn step(&mut self) {
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        let [first, second] = &mut self.stacks;
        let timers = [self.client.next(), first.next(), second.next()];
        // Nobody waits for longer than the applications want to look.
        let next = timers.into_iter().flatten().chain(arrival).min();
        set_now(next.unwrap_or(u32::MAX).clamp(now(), now() + 50));
        if timers.into_iter().flatten().all(|at| at <= now()) && arrival.is_none() {
            set_now(now() + 1);
        }
        while let Some(first) = self.wire.first_entry()
            && first.key().0 <= now()
        {
            let (at, packet) = first.remove();
            self.arrive(at, packet);
        }
        self.poll();
        set_now(now() + 1);
    }

    fn arrive(&mut self, at: At, packet: Packet) {
        match at {
            At::Client => self.client.arrive(packet.emit()),
            At::Front(node) => {
                if let Some(packet) = self.nodes[node].front_ingress(packet) {
                    self.show(node, &packet);
                }
            }
            At::Back(node) => {
                let (shown, answer) = self.nodes[node].back_ingress(packet);
                if let Some(packet) = shown {
                    self.show(node, &packet);
                }
                if let Some(packet) = answer {
                    self.send(|| At::Back(1 - node), &packet);
                }
            }
        }
    }
}

impl World {
    /// Whether a node may say something to the client: the server not before the inspecting node can't give the connection
    /// to another one any more.
    fn may_speak(&mut self, node: usize) -> bool {
        let processing = self.nodes[node].entry(flow(), role::PROCESSING);
        node == 0 || processing.is_some_and(|e| e.has(flag::REQUEST_END))
    }

    /// What a node's filter lets through reaches its stack.
    fn show(&mut self, node: usize, packet: &Packet) {
        if node == 0 || self.paws.takes(packet) {
            self.stacks[node].arrive(packet.emit());
        }
    }
}

impl Watch {
    /// Looks at a segment that leaves a node for the client: one server, one clock, no end that nobody wanted.
    ///
    /// The server's clock is never behind what the client has seen of the inspector's, or the client would take its
    /// first segments for old ones. The inspector's may be behind the server's: where the SYN-ACK to the inspecting
    /// node is lost, the server may have the request from the client itself and answer, and what the inspector says
    /// then is old indeed.
    fn leaves(&mut self, node: usize, packet: &Packet) {
        let t = &packet.header;
        // A socket that is closed for good answers a late segment so.
        assert!(
            t.flags & RST == 0 || self.server_gone,
            "a reset that nobody sent: {t:?}"
        );
        if t.flags & SYN != 0 {
            let isn = *self.isn.get_or_insert(t.seq);
            assert_eq!(isn, t.seq, "one SYN-ACK, or the same again");
        }
        let isn = self.isn.expect("the SYN-ACK comes first");
        assert!(t.seq.since(isn) < 1 << 24, "{:?} after {isn:?}", t.seq);
        let x = self.client_isn.expect("the client began");
        if t.flags & ACK != 0 {
            assert!(t.ack.since(x) < 1 << 24, "{:?} after {x:?}", t.ack);
        }
        if t.flags & FIN != 0 {
            assert!(self.server_closed, "a FIN that nobody sent: {t:?}");
        }
        if let Some((value, _)) = packet.options.timestamp_pair() {
            for last in self.tsval[..=node].iter().flatten() {
                let back = last.wrapping_sub(value);
                let forwards = back == 0 || back > 1 << 31;
                assert!(forwards, "the clock goes back by {back}");
            }
            self.tsval[node] = Some(value);
        }
    }
}

/// Bytes that are different at every place.
fn bytes(len: usize, start: u32) -> Vec<u8> {
    (start..)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_be_bytes())
        .map(|b| b | 0x80)
        .take(len)
        .collect()
}

/// What is said.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Bytes that the server says first.
    greeting: usize,
    /// The request's head and body.
    head: usize,
    body: usize,
    answer: usize,
}

/// One greeting, one request of a head and a body, one answer, both ends closed.
///
/// A client that is `polite` waits for the greeting before it sends.
fn exchange(seed: u64, weather: Weather, sizes: Sizes, polite: bool) {
    let Sizes {
        greeting,
        head,
        body,
        answer,
    } = sizes;
    let mut world = World::new(seed, weather);
    let inspector = world.stacks[0].listen(VIP, INSPECTOR);
    let server = world.stacks[1].listen(VIP, WEB);
    let client = world.client.connect(CLIENT, (VIP, WEB));
    let request = [bytes(head, 1), END_OF_HEAD.to_vec(), bytes(body, 9)].concat();
    let (greeting, answer) = (bytes(greeting, 77), bytes(answer, 5));
    let (mut to_send, mut to_answer) = (&request[..], &answer[..]);
    let mut to_repeat = &greeting[..];
    let (mut arrived, mut received) = (Vec::new(), Vec::new());
    let mut daemon = Daemon::Reading(Vec::new(), greeting.clone());
    let mut quiet_from = None;
    loop {
        world.step();
        assert!(
            now() < PATIENCE,
            "{} of {} arrived, {} of {} answered; client {:?}, server {:?}",
            arrived.len(),
            request.len(),
            received.len(),
            answer.len(),
            world.client.socket(client).state(),
            world.stacks[1].socket(server).state(),
        );
        let socket = world.client.socket(client);
        let may_send = !polite || received.len() >= greeting.len();
        if !to_send.is_empty() && socket.can_send() && may_send {
            let sent = socket.send_slice(to_send).expect("it can send");
            to_send = &to_send[sent..];
        }
        received.extend(world.client.drain(client));
        daemon = daemon.work(&mut world, inspector, &greeting);
        arrived.extend(world.stacks[1].drain(server));
        let given = matches!(daemon, Daemon::Sending(..) | Daemon::Done);
        assert!(given || arrived.is_empty(), "the server has begun already");
        let socket = world.stacks[1].socket(server);
        if !to_repeat.is_empty() && socket.can_send() {
            let sent = socket.send_slice(to_repeat).expect("it can send");
            to_repeat = &to_repeat[sent..];
        }
        world.watch.server_gone =
            world.watch.server_closed && matches!(socket.state(), State::TimeWait | State::Closed);
        world.nodes[1].server = match socket.state() {
            State::Listen | State::Closed => Socket::None,
            State::TimeWait => Socket::TimeWait,
            _ => Socket::Alive,
        };
        if arrived.len() == request.len() && !to_answer.is_empty() && socket.can_send() {
            let sent = socket.send_slice(to_answer).expect("it can send");
            to_answer = &to_answer[sent..];
        }
        // smoltcp stops the timer of a FIN when an acknowledgment of what came before is repeated: the
        // application waits until nothing of the answer is on its way any more.
        let socket = world.stacks[1].socket(server);
        if to_answer.is_empty() && socket.send_queue() == 0 && !world.watch.server_closed {
            let quiet = *quiet_from.get_or_insert(now()) + QUIET;
            if now() > quiet {
                socket.close();
                world.watch.server_closed = true;
            }
        }
        let client_state = world.client.socket(client).state();
        if client_state == State::CloseWait && received.len() == greeting.len() + answer.len() {
            world.client.socket(client).close();
        }
        if client_state == State::Closed
            && world.watch.server_closed
            && handed_over(&mut world, &daemon)
        {
            break;
        }
    }
    assert!(arrived == request, "the request as it was sent");
    let said = [greeting, answer].concat();
    assert!(received == said, "greeting and answer as they were sent");
}

/// Whether the handover is complete: both entries in their last state, and its connection gone.
fn handed_over(world: &mut World, daemon: &Daemon) -> bool {
    let placed = world.nodes[0]
        .entry(flow(), role::INSPECTING)
        .map(|e| e.state);
    let direct = world.nodes[1]
        .entry(flow(), role::PROCESSING)
        .map(|e| e.state);
    matches!(daemon, Daemon::Done) && (placed, direct) == (Some(state::PLACED), Some(state::DIRECT))
}

#[test]
fn a_handover_in_fair_weather() {
    let fair = Weather {
        loss: 0,
        repeat: 0,
        delay: 0,
    };
    for (head, body, answer) in [(20, 0, 1), (1, 1, 1), (3000, 100_000, 300_000)] {
        for greeting in [0, 1, 40, 3000] {
            let sizes = Sizes {
                greeting,
                head,
                body,
                answer,
            };
            exchange(1, fair, sizes, true);
            exchange(1, fair, sizes, false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_handover_in_any_weather(
        seed: u64,
        (loss, repeat, delay) in (0u8..15, 0u8..15, 0u32..40),
        head in 1usize..4000,
        body in 0usize..60_000,
        answer in 1usize..60_000,
    ) {
        let sizes = Sizes { greeting: 0, head, body, answer };
        exchange(seed, Weather { loss, repeat, delay }, sizes, true);
    }

    /// The inspector's greeting is the client's, the server's own the inspector's (DTS §2.6).
    #[test]
    fn a_handover_after_a_greeting_in_any_weather(
        seed: u64,
        (loss, repeat, delay) in (0u8..15, 0u8..15, 0u32..40),
        greeting in 1usize..3000,
        head in 1usize..4000,
        body in 0usize..30_000,
        answer in 1usize..30_000,
        polite: bool,
    ) {
        let sizes = Sizes { greeting, head, body, answer };
        exchange(seed, Weather { loss, repeat, delay }, sizes, polite);
    }
}
