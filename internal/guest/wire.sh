#!/bin/sh
# wire N: N soft RoCE devices, rxe1 to rxeN at 10.9.0.1 to 10.9.0.N, whose packets
# cross a bridge. The device rxeI stands on the card vI; pI is the bridge's end of that
# cable, so `tc qdisc add dev vI root netem ...` and `ip link set pI down` are faults of
# peer I alone. The GID of the IPv4 address has index 1.
#
# All in one network namespace: rxe carries packets in the first one only (seen with
# Linux 6.1 and 6.12). In another namespace a device can be made, has its GIDs, its
# queue pairs even come up, and then every send ends in a local error.
#
# In one namespace, though, the kernel hands packets between two of its own addresses
# straight to itself, unless the sender names its card, as rxe does. For those that name
# an address only, as TCP does, the table of local addresses, which is asked first, is
# moved behind rules that send what has address I out of card I.
#
# Before you write a test with it: seven retries mean for ever to rxe, so a queue pair
# whose peer is cut off never says so (6 and less end after (retries+1) * 4.096 us *
# 2^timeout); perftest and ibv_*_pingpong ask for seven and hang, put timeout before
# them. `rdma link delete` waits for the last process that has the device open, so it is
# no fault to inject. Never wait for a peer by sleeping.
set -eu
n=${1:?usage: wire N}

# accept IF: take packets from IF although their sender is an address of this machine.
accept() {
	echo 0 >/proc/sys/net/ipv4/conf/$1/rp_filter
	echo 1 >/proc/sys/net/ipv4/conf/$1/accept_local
}

ip link add br0 type bridge
ip link set br0 up
accept all
accept default

i=1
while [ $i -le $n ]; do
	ip link add v$i type veth peer name p$i
	accept v$i
	echo 1 >/proc/sys/net/ipv4/conf/v$i/arp_ignore # only card I answers for address I
	ip link set p$i master br0 up
	ip addr add 10.9.0.$i/24 dev v$i noprefixroute
	ip link set v$i up

	# A peer that talks to itself is not on the wire: nobody there would answer it. A
	# connection without a source address of its own is such a one.
	ip rule add pref $((500 + i)) from 10.9.0.$i to 10.9.0.$i lookup local
	table=$((100 + i))
	ip route add 10.9.0.0/24 dev v$i src 10.9.0.$i table $table
	ip rule add pref $i iif v$i lookup local                              # came over the wire: it is for us
	ip rule add pref $((1000 + i)) oif v$i lookup $table                      # what names its card
	ip rule add pref $((2000 + i)) from 10.9.0.$i to 10.9.0.0/24 lookup $table # what names its address
	i=$((i + 1))
done
ip rule add pref 32000 lookup local
ip rule del pref 0

# A ping each way over each pair: later failures are then not the wire's.
i=1
while [ $i -le $n ]; do
	rdma link add rxe$i type rxe netdev v$i
	j=1
	while [ $j -le $n ]; do
		[ $i = $j ] || ping -c 1 -W 5 -I v$i 10.9.0.$j >/dev/null || { echo "wire: no way from $i to $j" >&2; exit 1; }
		j=$((j + 1))
	done
	i=$((i + 1))
done
