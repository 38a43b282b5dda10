//! Whatever bytes come from a network, they are read or refused, and what is read is written back alike.
#![no_main]

use dts_core::addr::Addr;
use dts_core::handover::{HandoverEnds, HandoverOption, OPTION_LEN, OptionRoom};
use dts_core::notice::{MAX_LEN, Notice};
use dts_core::segment::{MAX_OPTIONS, TCP_HEADER, TcpHeader, scan};
use dts_core::seq::Seq;
use libfuzzer_sys::fuzz_target;

const KEY: [u8; 16] = *b"a key for tests.";
const NOW: u32 = 1_800_000_000;

fuzz_target!(|bytes: &[u8]| {
    header(bytes);
    options(bytes);
    handover(bytes);
    notice(bytes);
});

fn header(bytes: &[u8]) {
    let Some(first) = bytes.first_chunk::<TCP_HEADER>() else {
        return;
    };
    if let Some(header) = TcpHeader::parse(first) {
        let mut again = *first;
        header.emit(&mut again);
        assert_eq!(*first, again);
    }
}

fn options(bytes: &[u8]) {
    let len = bytes.len().min(MAX_OPTIONS);
    let mut room = [0; 64];
    room[..len].copy_from_slice(&bytes[..len]);
    let found = scan(room, len as u32);
    assert!(found.next as usize <= len);
    assert!(found.timestamps == 0 || found.timestamps as usize + 8 <= len);
    assert!(found.sack == 0 || (found.sack + 4 * found.sack_edges) as usize <= len);
}

fn handover(bytes: &[u8]) {
    let Some(option) = bytes.first_chunk::<OPTION_LEN>() else {
        return;
    };
    let Some(parsed) = HandoverOption::parse(option, Seq(1), Seq(2), 3, NOW) else {
        return;
    };
    let ends = HandoverEnds {
        from: Addr::v4([198, 18, 1, 11]),
        from_port: 4,
        to: Addr::v4([198, 18, 1, 12]),
    };
    let mut room = OptionRoom::default();
    parsed.emit(&KEY, &ends, &mut room);
    let again = HandoverOption::parse(&room.bytes, Seq(1), Seq(2), 3, NOW);
    assert_eq!(again, Some(parsed));
    assert!(parsed.tag_is_right(&KEY, &ends, &mut room));
}

fn notice(bytes: &[u8]) {
    if let Ok(notice) = Notice::parse(bytes, &KEY, 1000) {
        let mut room = [0; MAX_LEN];
        let len = notice.emit(&KEY, 1000, &mut room);
        assert_eq!(Notice::parse(&room[..len], &KEY, 1000), Ok(notice));
    }
}
