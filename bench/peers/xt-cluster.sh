# A node of a cluster by netfilter's `cluster` match, after iptables-extensions(8): all nodes have the shared address
# and its multicast link address, and each drops the packets of the clients that are others'. The match decides by
# the client's address alone.

# The shared address, about which no node answers ARP (the client has a static entry for its link address).
sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
ip addr add @VIP@/32 dev lo
ip maddr add @LINK_ADDRESS@ dev eth0

# What is marked is this node's. (The match also makes the packets of the multicast link address ordinary ones.)
iptables-legacy -t mangle -A PREROUTING -i eth0 -d @VIP@ -m cluster --cluster-total-nodes @NODES@ \
  --cluster-local-node @NUMBER@ --cluster-hash-seed 0xdeadbeef -j MARK --set-mark 0xffff
iptables-legacy -t mangle -A PREROUTING -i eth0 -d @VIP@ -m mark ! --mark 0xffff -j DROP

# The manual's advice: no state from the middle of a connection.
sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0
# The match needs connection tracking, which remembers a closed connection for two minutes by default. The table would
# be full after a few seconds of new connections.
sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=2 net.netfilter.nf_conntrack_tcp_timeout_close=1 \
  net.netfilter.nf_conntrack_tcp_timeout_last_ack=5 net.netfilter.nf_conntrack_tcp_timeout_fin_wait=10
