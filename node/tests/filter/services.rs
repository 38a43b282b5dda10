//! What a processor remembers of services holds until they change.

use dts_core::entry::{RECENT_SERVICES, ServiceEntry, ServiceKey, service_kind};

use crate::bench::{Bench, INSPECTOR, SHOT, UNSPEC, WEB, WEB_ID, flow, service, syn};

/// Ports so far apart share a place in a processor's memory.
const APART: u16 = RECENT_SERVICES as u16;
const OTHER: u16 = WEB + APART;

fn web(inspector: u16) -> Vec<(ServiceKey, ServiceEntry)> {
    vec![
        service(WEB, service_kind::L7, WEB_ID, inspector),
        service(inspector, service_kind::INSPECTOR, WEB_ID, WEB),
    ]
}

/// The port at which a SYN to `port` arrives, or `None` when it is dropped.
fn arrives_at(bench: &Bench, port: u16) -> Option<u16> {
    let (result, frame) = bench.run("front_ingress", &syn(&flow(40_000, port)).frame());
    bench.clear();
    match result {
        UNSPEC => Some(u16::from_be_bytes([frame[36], frame[37]])),
        SHOT => None,
        other => panic!("result {other}"),
    }
}

#[test]
fn a_change_of_services_holds_at_once() {
    let bench = Bench::new(1024);
    bench.set_up();
    for _ in 0..100 {
        bench.filter.set_services(&web(INSPECTOR)).unwrap();
        assert_eq!(arrives_at(&bench, WEB), Some(INSPECTOR));
        bench.filter.set_services(&web(9090)).unwrap();
        assert_eq!(arrives_at(&bench, WEB), Some(9090));
        // Settings that are written meanwhile don't bring the old services back.
        let node = bench.filter.node().unwrap();
        bench.filter.set_services(&[]).unwrap();
        bench.filter.set_node(&node).unwrap();
        assert_eq!(arrives_at(&bench, WEB), None);
    }
}

#[test]
fn services_that_share_a_place_are_told_apart() {
    let bench = Bench::new(1024);
    bench.set_up();
    let mut services = web(INSPECTOR);
    services.push(service(OTHER, service_kind::L4, 12, 0));
    bench.filter.set_services(&services).unwrap();
    for _ in 0..100 {
        assert_eq!(arrives_at(&bench, WEB), Some(INSPECTOR));
        assert_eq!(arrives_at(&bench, OTHER), Some(OTHER));
        assert_eq!(arrives_at(&bench, OTHER + APART), None);
    }
}
