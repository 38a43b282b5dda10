//! Cluster, members, this node, the ring.

use super::*;

#[test]
fn ipv6_is_for_later() {
    assert_only_error(
        &changed("vip = \"198.18.0.100\"", "vip = \"2001:db8::100\""),
        "20:7: error: `vip` is \"2001:db8::100\": IPv6 comes in a later version\n  help: use an \
         IPv4 address",
    );
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
