//! Cluster, members, this node, the ring.

use super::*;

/// The example with its nodes' addresses as IPv6 ones.
fn with_ipv6_members() -> String {
    EXAMPLE.replace("\"198.18.1.", "\"2001:db8:1::")
}

#[test]
fn nodes_may_know_each_other_by_ipv6() {
    let (config, _) = parse(&with_ipv6_members()).unwrap();
    assert_eq!(config.node.address.to_string(), "2001:db8:1::11");
    assert_eq!(config.members[1].address.to_string(), "2001:db8:1::12");
    assert_eq!(config.node.self_address.to_string(), "100::4454");
    // The services' addresses are another matter.
    assert!(config.services[0].vip.is_ipv4());
}

#[test]
fn members_are_of_one_family() {
    assert_only_error(
        &changed("\"198.18.1.12\"", "\"2001:db8:1::12\""),
        "15:26: error: the address of \"n2\" is of IPv6, that of \"n1\" in line 14 of IPv4\n  help: \
         give all members back addresses of one family; the services' may be of the other",
    );
}

#[test]
fn the_self_address_is_of_the_nodes_family() {
    let own = "address = \"2001:db8:1::11\"";
    let text =
        with_ipv6_members().replacen(own, &format!("{own}\nself_address = \"169.254.68.84\""), 1);
    assert_only_error(
        &text,
        "10:16: error: `self_address` is 169.254.68.84, of another family than `address`, \
         2001:db8:1::11\n  help: use one of the same family that no host has, or leave \
         `self_address` out",
    );
}

#[test]
fn an_ipv6_address_is_one_that_others_can_reach() {
    for (address, what, help) in [
        (
            "fe80::11",
            "a link-local address, which means nothing without an interface",
            "use a global address or a unique local one (fd00::/8)",
        ),
        (
            "::ffff:198.18.1.11",
            "an IPv4 address in the form of an IPv6 one",
            "write \"198.18.1.11\"",
        ),
        ("::", "which no host can have on a network", ""),
        ("::1", "which no host can have on a network", ""),
        ("ff02::1", "which no host can have on a network", ""),
        ("fe80::11%eth1", "not an IP address", ""),
        ("2001:db8::11/64", "not an IP address", ""),
        ("[2001:db8::11]", "not an IP address", ""),
    ] {
        for (key, text) in [
            (
                "vip",
                changed("\"198.18.0.100\"", &format!("\"{address}\"")),
            ),
            (
                "address",
                changed("{ id = \"n1\", address = \"198.18.1.11\"", &{
                    format!("{{ id = \"n1\", address = \"{address}\"")
                }),
            ),
        ] {
            let found = errors(&text);
            let wanted = format!("`{key}` is \"{address}\", {what}\n  help: {help}");
            assert!(
                found.len() == 1 && found[0].contains(&wanted),
                "{address}: {found:?}"
            );
        }
    }
}

#[test]
fn members_are_unique() {
    assert_only_error(
        &changed(
            "id = \"n2\", address = \"198.18.1.12\"",
            "id = \"n2\", address = \"198.18.1.11\"",
        ),
        "15:26: error: a second member has the address 198.18.1.11\n  help: the first is in line \
         14: give each its own back address",
    );
    let text = changed("[\"n2\", \"n1\"]", "[\"n1\"]").replace("id = \"n2\"", "id = \"n1\"");
    assert_only_error(
        &text,
        "15:10: error: a second member has the name \"n1\"\n  help: the first is in line 14: \
         rename one",
    );
}

#[test]
fn the_node_is_a_member() {
    assert_only_error(
        &changed("id = \"n1\"\nfront", "id = \"n11\"\nfront"),
        "6:6: error: this node, \"n11\", is no member\n  help: did you mean \"n1\"?",
    );
    assert_only_error(
        &changed("id = \"n1\"\nfront", "id = \"alpha\"\nfront"),
        "6:6: error: this node, \"alpha\", is no member\n  help: add { id = \"alpha\", address = \
         \"198.18.1.11\" } to the members",
    );
    assert_only_error(
        &changed(
            "eth1\"\naddress = \"198.18.1.11\"",
            "eth1\"\naddress = \"198.18.1.13\"",
        ),
        "9:11: error: this node's address is 198.18.1.13 here and 198.18.1.11 among the members\n  \
         help: write the same address in both places",
    );
}

#[test]
fn the_node_inspects_as_its_entry_says() {
    let text = changed("back = \"eth1\"", "back = \"eth1\"\ninspect = false");
    assert_only_error(
        &text,
        "9:11: error: `inspect` is false here and true in the entry of \"n1\"\n  help: write { id \
         = \"n1\", address = \"198.18.1.11\", inspect = false } among the members, in the files of \
         all nodes: they must build the same ring",
    );
    // Left out in [node], the entry decides.
    let text = changed("id = \"n1\"\nfront", "id = \"n2\"\nfront").replace(
        "eth1\"\naddress = \"198.18.1.11\"",
        "eth1\"\naddress = \"198.18.1.12\"",
    );
    assert!(!parse(&text).unwrap().0.node.inspect);
}

#[test]
fn somebody_has_to_inspect() {
    let text = changed("\"198.18.1.11\" }", "\"198.18.1.11\", inspect = false }");
    assert_only_error(
        &text,
        "14:10: error: no member has points on the ring: nobody would accept a connection\n  help: \
         remove `inspect = false` from at least one member",
    );
}

#[test]
fn the_ring_has_to_fit() {
    let members: Vec<_> = (0..5)
        .map(|i| format!("{{ id = \"m{i}\", address = \"198.18.1.{}\" }},", 100 + i))
        .collect();
    let text = changed("members = [", &format!("members = [ {}", members.concat()))
        .replace("[membership]", "[ring]\nvirtual_nodes = 4096\n[membership]");
    assert_only_error(
        &text,
        "11:1: error: the ring would have 28672 points, more than 16384\n  help: write \
         `virtual_nodes = 2340` or less",
    );
}
