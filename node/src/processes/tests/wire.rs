//! What processes say that the library would not.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use dts_inspector::protocol::ToDaemon;

use super::*;

#[test]
fn a_process_that_says_nonsense_is_detached_and_nobody_else() {
    let node = Node::up();
    let web = node.attach();
    let hello = b"\0\0\0\x07\x01\0\x01\x03web";
    let unopened = b"\0\0\0\x09\x03\0\0\0\0\0\0\0\0";
    let nonsense = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        unopened.to_vec(),
        [&hello[..], hello].concat(),
        [&hello[..], unopened].concat(),
        [&hello[..], b"\0\0\0\x01\x09"].concat(),
    ];
    for bytes in &nonsense {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        // A greeting is answered; then comes the end.
        match stream.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    wait_for("all to be counted", || {
        node.counted(|c| &c.malformed) == nonsense.len() as u64
    });
    wait_for("all to be detached", || node.processes().attached() == 1);
    let mut client = Client::new(&node, 4000);
    client.ask(b"x", false);
    let connection = web.accept().unwrap();
    connection.receive(&mut [0; 4]).unwrap();
    connection
        .request_handover(Target::Node("n2"), b"x")
        .unwrap();
    assert_eq!(
        to_node(&client.answer(b"x"), &node.current).as_deref(),
        Some("n2")
    );
}

#[test]
fn who_asks_for_something_else_is_refused() {
    let node = Node::up();
    for (frame, answer) in [
        (&b"\0\0\0\x07\x01\0\x02\x03web"[..], 1),
        (b"\0\0\0\x07\x01\0\x01\x03app", 2),
    ] {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.write_all(frame).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        assert_eq!(said, [0, 0, 0, 4, 0x82, 0, 1, answer]);
    }
    assert_eq!(node.counted(|c| &c.attached), 0);
}

#[test]
fn an_answer_has_to_be_about_what_was_shown() {
    let opened = 4 + 1 + 8 + 18 + 18 + 4 + 1 + 8 + 4 + 1 + 1;
    for (length, id) in [(2, 0), (0, 1), (0, u64::MAX)] {
        let node = Node::up();
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"\0\0\0\x07\x01\0\x01\x03web").unwrap();
        wait_for("it is attached", || node.processes().attached() == 1);
        let greeting = 4 + 1 + 2 + 4 + locked(&node.processes().cluster).frame.len();
        stream.read_exact(&mut vec![0; greeting]).unwrap();
        let mut client = Client::new(&node, 4000);
        assert_eq!(client.ask(b"x", false), Decision::NeedMore);
        stream.read_exact(&mut vec![0; opened]).unwrap();
        let mut answer = Vec::new();
        let target = WireTarget::Local;
        ToDaemon::Handover { id, length, target }.emit(&mut answer);
        stream.write_all(&answer).unwrap();
        assert_eq!(client.answer(b"x"), RESET, "{length} bytes of {id}");
        assert_eq!(node.counted(|c| &c.orphaned), 1);
        wait_for("it to be counted", || node.counted(|c| &c.malformed) == 1);
    }
}
