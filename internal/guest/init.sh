#!/usr/bin/busybox sh
# The guest's first process: mounts, modules, two ports to the outside, the command,
# its status, power off. Kernel messages go to the serial console only, so they never
# mix with what the command prints.
#
# One line on the port "status": `exit STATUS UPTIME-AT-START UPTIME-AT-END`, or
# `unprepared WHY`. No line means that the guest died.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/busybox HOME=/root HEADRACE_GUEST_INSIDE=1

mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
echo "guest: init runs" >/dev/console # a panic from here on may be the command's
mkdir -p /dev/shm /dev/pts /dev/hugepages
for at in /dev/shm /tmp /run; do mount -t tmpfs none $at; done
mount -t devpts none /dev/pts
mount -t hugetlbfs none /dev/hugepages
mount -t cgroup2 none /sys/fs/cgroup
for fs in bpf:/sys/fs/bpf debugfs:/sys/kernel/debug tracefs:/sys/kernel/tracing; do
	mount -t ${fs%%:*} none ${fs#*:} 2>/dev/null # not in every kernel
done
ulimit -l unlimited # verbs and AF_XDP lock the memory that they register
ulimit -n 65536

load() {
	for name in $(cat $1); do
		insmod /modules/$name.ko 2>/tmp/why || { echo "module $name: $(cat /tmp/why)" >>/tmp/refused; return; }
	done
}
load /modules/first

# The ports appear a moment after their driver; which is which stands in sysfs.
tries=0
while [ "$(ls /sys/class/virtio-ports 2>/dev/null | wc -l)" -lt 2 ] && [ $tries -lt 200 ]; do
	sleep 0.05
	tries=$((tries + 1))
done
for port in /sys/class/virtio-ports/*; do
	case $(cat $port/name) in
	out) out=/dev/${port##*/} ;;
	status) status=/dev/${port##*/} ;;
	esac
done

uptime() { cut -d' ' -f1 /proc/uptime; }
ip link set lo up
hostname guest
load /modules/rest
if [ -s /tmp/refused ]; then
	dmesg | tail -n 5
	echo "unprepared $(head -n 1 /tmp/refused)" >$status
elif [ -f /debian.sh ]; then
	. /debian.sh
else
	ready=$(uptime)
	cd /work
	/usr/bin/sh /command >$out 2>&1 </dev/null
	echo "exit $? $ready $(uptime)" >$status
fi
sync
poweroff -f
