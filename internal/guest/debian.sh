# Sourced by init.sh, with $status set: the disk's Debian becomes the machine. The command
# runs there as a unit, with its output and status on the same ports.
mkdir -p /disk
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do
	sleep 0.05
	tries=$((tries + 1))
done
if ! mount -t ext4 /dev/vda /disk 2>/tmp/why; then
	echo "unprepared disk: $(cat /tmp/why)" >$status
	sync
	poweroff -f
fi
cp -a /work /disk/work
cp /command /disk/command

cat >/disk/guest-command <<'END'
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root HEADRACE_GUEST_INSIDE=1
for port in /sys/class/virtio-ports/*; do
	case $(cat $port/name) in
	out) out=/dev/${port##*/} ;;
	status) status=/dev/${port##*/} ;;
	esac
done
uptime() { cut -d' ' -f1 /proc/uptime; }
ready=$(uptime)
cd /work
sh /command >$out 2>&1 </dev/null
echo "exit $? $ready $(uptime)" >$status
sync
systemctl poweroff --force --force
END
chmod 755 /disk/guest-command

cat >/disk/etc/systemd/system/guest-command.service <<'END'
[Unit]
Description=the command of the guest
After=multi-user.target

[Service]
Type=simple
ExecStart=/guest-command
END
mkdir -p /disk/etc/systemd/system/guest-command.target.wants
cat >/disk/etc/systemd/system/guest-command.target <<'END'
[Unit]
Description=everything, and then the command
Requires=multi-user.target
After=multi-user.target
AllowIsolate=yes
END
ln -s ../guest-command.service /disk/etc/systemd/system/guest-command.target.wants/
# None of these is of use to a machine that lives for a minute.
for unit in getty.target apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-update-utmp-runlevel.service; do
	ln -sf /dev/null /disk/etc/systemd/system/$unit
done
echo guest >/disk/etc/hostname
for at in /sys/fs/cgroup /sys/fs/bpf /sys/kernel/debug /sys/kernel/tracing /dev/hugepages /dev/shm /dev/pts; do umount $at 2>/dev/null; done
exec switch_root /disk /sbin/init
