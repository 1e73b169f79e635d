#!/usr/bin/env bash
# Becomes systemd in a root of its own: private_root.sh WORK CHECKOUT PYTHON NEEDED. To be started in namespaces of its own
# (tests/support/private_systemd.py), so that nothing here reaches the machine: what is written goes to memory.
set -eu
work=$1 checkout=$2 python=$3 needed=$4
mount --make-rprivate /
mount -t tmpfs tmpfs "$work"
mkdir "$work"/{upper,over,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/over" "$work/root"
root=$work/root

for folder in run tmp var/tmp var/log sys dev; do
    mkdir -p "$root/$folder"
    mount -t tmpfs -o mode=755 tmpfs "$root/$folder"
done
chmod 1777 "$root/tmp" "$root/var/tmp"
mount -t proc proc "$root/proc"
# The kernel's settings are the machine's.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
[ ! -e "$root/proc/sysrq-trigger" ] || mount --bind /dev/null "$root/proc/sysrq-trigger"
mkdir -p "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"

# What the tests bring: folders that a service may see, wherever they lie on this machine.
for pair in "$checkout:checkout" "$python:python" "$needed:needed"; do
    mkdir -p "$root/opt/test/${pair##*:}"
    mount --bind "${pair%:*}" "$root/opt/test/${pair##*:}"
    mount -o remount,ro,bind "$root/opt/test/${pair##*:}"
done
# Python's library, where it is one: the place that the program names may be in a home, which services do not see.
echo /opt/test/python/lib > "$root/etc/ld.so.conf.d/00-test.conf"
ldconfig -r "$root"

# No unit of this machine starts there, but those that are asked for.
units=$root/usr/lib/systemd/system
rm -rf "$root"/etc/systemd/system "$root"/{etc,usr/lib}/systemd/system-generators "$units"/*.target.wants
mkdir -p "$root/etc/systemd/system" "$units/sysinit.target.wants"
for unit in systemd-journald.socket systemd-journald.service; do ln -s "../$unit" "$units/sysinit.target.wants/$unit"; done
: > "$root/etc/fstab"
rm -f "$root/etc/machine-id"
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"

mkdir "$root/old"
cd "$root"
pivot_root . old
umount -l /old
rmdir /old
# As on a machine: a credential is mounted for a service from outside of its sandbox.
mount --make-rshared /
exec setpriv --bounding-set -sys_time,-sys_module,-sys_rawio,-syslog,-wake_alarm,-block_suspend \
    env -i container=test PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=no
