//! Whatever daemon and inspector process say to each other, it is read or refused, and what is read is written back alike.
#![no_main]

use dts_inspector::protocol::{MAX_TO_DAEMON, MAX_TO_PROCESS, ToDaemon, ToProcess, next_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    frames(bytes, MAX_TO_DAEMON, |frame| {
        if let Ok(message) = ToDaemon::parse(frame) {
            let mut out = Vec::new();
            message.emit(&mut out);
            assert_eq!(&out[4..], frame);
        }
    });
    frames(bytes, MAX_TO_PROCESS, |frame| {
        if let Ok(message) = ToProcess::parse(frame) {
            let mut out = Vec::new();
            message.emit(&mut out);
            assert_eq!(&out[4..], frame);
            if let ToProcess::Cluster(cluster) = message {
                // Whoever is found is a member.
                let found = cluster.ring_lookup(frame);
                assert!(found.is_none_or(|found| cluster.members().contains(found)));
                assert!(cluster.members().contains(cluster.own()));
            }
        }
    });
    // Without a frame around it.
    let _ = ToDaemon::parse(bytes);
    let _ = ToProcess::parse(bytes);
});

/// Gives `read` one frame after the other.
fn frames(mut bytes: &[u8], most: usize, read: impl Fn(&[u8])) {
    while let Ok(Some((frame, length))) = next_frame(bytes, most) {
        assert!(!frame.is_empty() && length == frame.len() + 4 && length <= most);
        read(frame);
        bytes = &bytes[length..];
    }
}
