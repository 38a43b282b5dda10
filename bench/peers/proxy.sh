# The proxies' machine, as for any machine with many connections.

# The servers' sockets have these settings, too: queues for clients that come at the same time.
sysctl -qw net.core.somaxconn=4096 net.ipv4.tcp_max_syn_backlog=4096
# Without reuse, each request takes a port of the proxy's. One in TIME_WAIT may be taken again after a second.
sysctl -qw net.ipv4.tcp_tw_reuse=1
# To the client's further addresses.
ip route replace 198.18.2.0/24 dev eth0
