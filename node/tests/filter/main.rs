//! The packet filter's programs, run as functions on frames (BPF_PROG_TEST_RUN). Needs root.
//!
//! | Module | What |
//! |---|---|
//! | `ring` | kernel and user space agree on whose a flow is |
//! | `random` | a million random and mutated frames: results, counters, checksums, table growth |
//! | `rules` | filter and inspector agree where a million requests go |
//! | `services` | what a processor remembers of services holds until they change |
//! | `table` | one row per verdict: frame in, counter that grew, frame out |
//! | `trace` | what is told of packets while somebody traces |
//! | `adopting` | an adopting service, and the frames that it has to do with |
//! | `bench` | a node of its own: a network namespace, the loaded filter, its settings |
//! | `world` | address families: of clients, of nodes |
//! | `frame` | frames made, and their checksums verified, by code that the filter does not have |
//!
//! Nothing is attached to an interface: every packet that a program sees is a test's.

mod adopting;
mod bench;
mod frame;
mod random;
mod ring;
mod rules;
mod services;
mod table;
mod trace;
mod world;
