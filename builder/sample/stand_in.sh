#!/bin/busybox sh
# The NT stand-in: /init of a small Linux on the sample disk. It is not Windows. Before it comes up, it applies the rules by
# which Windows finds and accepts the driver of its boot disk to the disk it was started from, and stops as Windows would
# where they are not met. It reads the hives with hivexsh and the signatures with osslsigncode, never with winfoundry's code.
#
#   up       the console says "NT stand-in: up from PCI\VEN_... by service ...", and the guest agent answers
#   0x7B     no driver of the boot disk's controller is set up to start at boot
#   0xc0000428   its driver is there, but its signature is not acceptable
#
# Both stops end in a kernel panic, which pvpanic reports to the hypervisor.

PATH=/bin
export PATH
WORK=/tmp

say() {
    printf '%s\r\n' "$@" >/dev/ttyS0 2>/dev/null
    printf '%s\n' "$@" >/dev/tty1
}

# ---------------------------------------------------------------- how it stops

stop_0x7b() {
    say "" "*** STOP: 0x0000007B (INACCESSIBLE_BOOT_DEVICE)" "    $1" "    (NT stand-in, not Windows)" ""
    panic
}

stop_0xc0000428() {
    say "" "Windows Boot Manager (NT stand-in, not Windows)" "" "    File:   $1" "    Status: 0xc0000428" \
        "    Info:   The digital signature for this file couldn't be verified." "    Why:    $2" ""
    panic
}

panic() {
    sleep 1 # the serial port sends what it still holds
    echo c >/proc/sysrq-trigger
    sleep 3600
}

# ---------------------------------------------------------------- reading the disk

# value HIVE KEY NAME: the value's text, number or bytes; fails when it is not there
value() { printf 'cd %s\nlsval %s\n' "$2" "$3" | hivexsh "$1" 2>/dev/null; }

# keys HIVE KEY, names HIVE KEY: one sub-key, or value name, a line
keys() { printf 'cd %s\nls\n' "$2" | hivexsh "$1" 2>/dev/null; }
names() { printf 'cd %s\nlsval\n' "$2" | hivexsh "$1" 2>/dev/null | sed -n 's/^"\([^"]*\)"=.*/\1/p'; }

load_drivers() {
    modprobe -qa fuse sd_mod $(cat /sys/bus/pci/devices/*/modalias /sys/bus/acpi/devices/*/modalias 2>/dev/null)
    modprobe -qa $(cat /sys/bus/virtio/devices/*/modalias 2>/dev/null)
}

# Volumes are mounted read-only at /mnt/<partition>; NTFS and FAT both ignore the case of names here.
mount_volume() {
    mkdir -p "/mnt/$1"
    case $(head -c 90 "/dev/$1" | tr -d '\0') in
    *"NTFS    "*) lowntfs-3g -o ro,ignore_case "/dev/$1" "/mnt/$1" ;;
    *FAT32*) modprobe -qa vfat nls_cp437 nls_ascii && mount -t vfat -o ro "/dev/$1" "/mnt/$1" ;;
    esac
}

# The disk that holds a system volume: sets DISK ("sda"), SYSTEM_VOLUME and BOOT_VOLUME (mount points)
find_windows() {
    for at in /sys/class/block/*/partition; do
        [ -e "$at" ] || continue
        part=$(basename "$(dirname "$at")")
        [ -d "/mnt/$part" ] || mount_volume "$part" 2>/dev/null
        [ -f "/mnt/$part/windows/system32/config/system" ] && SYSTEM_VOLUME=/mnt/$part && SYSTEM_PART=$part
        [ -f "/mnt/$part/$STORE" ] && BOOT_VOLUME=/mnt/$part
    done 2>/dev/null
    [ -n "$SYSTEM_VOLUME" ] && [ -n "$BOOT_VOLUME" ]
}

# The ids Windows' PCI bus driver makes for the controller of a partition's disk, best match first
controller_ids() {
    at=$(readlink -f "/sys/class/block/$1")
    while [ "$(basename "$(readlink -f "$at/subsystem")")" != pci ]; do
        at=$(dirname "$at")
        [ "$at" != / ] || return 1
    done
    hex() { cut -c 3- "$at/$1" | tr a-f A-F; }
    ven=$(hex vendor) dev=$(hex device) rev=$(hex revision) class=$(hex class)
    sub=$(hex subsystem_device)$(hex subsystem_vendor)
    long=CC_$class short=CC_$(echo "$class" | cut -c 1-4)
    for id in "DEV_$dev&SUBSYS_$sub&REV_$rev" "DEV_$dev&SUBSYS_$sub" "DEV_$dev&$long" "DEV_$dev&$short" \
        "DEV_$dev&REV_$rev" "DEV_$dev" "$long" "$short"; do
        echo "VEN_$ven&$id"
    done
    printf '%s\n' "$long" "$short"
}

# ---------------------------------------------------------------- from the device to its service

# bound IDS: prints the service for the first id that has one. Windows 8 and later have a DriverDatabase, older ones do not.
bound() {
    if keys "$SYSTEM" '\' | grep -qix DriverDatabase; then
        bound_by_database "$1"
    else
        bound_by_critical_devices "$1"
    fi
}

bound_by_database() {
    known=$(keys "$SYSTEM" '\DriverDatabase\DeviceIds\PCI')
    for id in $1; do
        echo "$known" | grep -qiFx "$id" || continue
        for inf in $(names "$SYSTEM" "\\DriverDatabase\\DeviceIds\\PCI\\$id"); do
            package=$(value "$SYSTEM" "\\DriverDatabase\\DriverInfFiles\\$inf" Active) || continue
            package="\\DriverDatabase\\DriverPackages\\$package"
            # The kernel of Windows 10 and later passes over a package without a well-formed Version.
            [ "$(value "$SYSTEM" "$package" Version | wc -c)" = 48 ] || continue
            conf=$(value "$SYSTEM" "$package\\Descriptors\\PCI\\$id" Configuration) || continue
            value "$SYSTEM" "$package\\Configurations\\$conf" Service && return
        done
    done
    return 1
}

bound_by_critical_devices() {
    known=$(keys "$SYSTEM" "\\$SET\\Control\\CriticalDeviceDatabase")
    for id in $1; do
        echo "$known" | grep -qiFx "pci#$id" || continue
        value "$SYSTEM" "\\$SET\\Control\\CriticalDeviceDatabase\\pci#$id" Service && return
    done
    return 1
}

# ---------------------------------------------------------------- whether the driver may run

# The certificates of SOFTWARE's ROOT store as PEM: each Blob is a row of {id, 1, length, bytes}; id 32 is the certificate.
trusted_roots() {
    store='\Microsoft\SystemCertificates\ROOT\Certificates'
    for thumbprint in $(keys "$SOFTWARE" "$store"); do
        value "$SOFTWARE" "$store\\$thumbprint" Blob >"$WORK/blob" || continue
        at=0 size=$(wc -c <"$WORK/blob")
        while [ $((at + 12)) -le "$size" ]; do
            length=$(number_at $((at + 8)))
            if [ "$(number_at $at)" = 32 ]; then
                echo "-----BEGIN CERTIFICATE-----"
                tail -c +$((at + 13)) "$WORK/blob" | head -c "$length" | base64
                echo "-----END CERTIFICATE-----"
            fi
            at=$((at + 12 + length))
        done
    done
}

number_at() { od -A n -t u4 -j "$1" -N 4 "$WORK/blob" | tr -d ' '; }

# vouched FILE: an embedded signature, or a catalogue that lists it, whose chain ends in a trusted root
vouched() {
    trusted_roots >"$WORK/roots.pem"
    [ -s "$WORK/roots.pem" ] || return 1
    folder="$SYSTEM_VOLUME/windows/system32/catroot/{f750e6c3-38ee-11d1-85e5-00c04fc295ee}"
    for catalogue in "$folder"/*.cat; do
        [ -f "$catalogue" ] && verified -catalog "$catalogue" -in "$1" && return
    done
    verified -in "$1"
}

verified() { osslsigncode verify -CAfile "$WORK/roots.pem" -TSA-CAfile "$WORK/roots.pem" "$@" >/dev/null 2>&1; }

# testsigning (16000049) on the default loader of the store this boot came from
test_signing() {
    loader=$(value "$BOOT_VOLUME/$STORE" '\Objects\{9dea862c-5cdd-4e70-acc1-f32b344d4795}\Elements\23000003' Element) &&
        [ "$(value "$BOOT_VOLUME/$STORE" "\\Objects\\$loader\\Elements\\16000049" Element | xxd -p)" = 01 ]
}

# "Windows' own" drivers on the sample are known by hash, where Windows would have Microsoft's catalogues.
inbox() { grep -q "^$(sha256sum <"$1" | cut -d ' ' -f 1)" /etc/inbox.sha256; }

# ---------------------------------------------------------------- the boot

boot_as_nt() {
    SYSTEM=$SYSTEM_VOLUME/windows/system32/config/system SOFTWARE=$SYSTEM_VOLUME/windows/system32/config/software
    SET=$(printf 'ControlSet%03d' "$(value "$SYSTEM" '\Select' Current)")
    ids=$(controller_ids "$SYSTEM_PART") || stop_0x7b "the boot disk hangs on no PCI device"
    device="PCI\\$(echo "$ids" | head -n 1)"
    service=$(bound "$ids") || stop_0x7b "no driver is bound to $device"
    key="\\$SET\\Services\\$service"
    [ "$(value "$SYSTEM" "$key" Start)" = 0 ] || stop_0x7b "service $service of $SET does not start at boot"
    if keys "$SYSTEM" "$key" | grep -qix StartOverride; then
        stop_0x7b "service $service of $SET has a StartOverride"
    fi
    image=$(value "$SYSTEM" "$key" ImagePath) || image="System32\\drivers\\$service.sys"
    file="$SYSTEM_VOLUME/windows/$(echo "$image" | tr 'A-Z\\' 'a-z/' | sed 's,^/systemroot/,,')"
    [ -f "$file" ] || stop_0x7b "the file of service $service is missing: $image"
    [ "$(head -c 2 "$file")" = MZ ] || stop_0x7b "the file of service $service is no program: $image"
    if ! inbox "$file"; then
        vouched "$file" || stop_0xc0000428 "$image" "no signature of it ends in a root this machine trusts"
        test_signing || stop_0xc0000428 "$image" "it is test-signed, and testsigning is off in the boot store"
    fi
    say "NT stand-in: up from $device by service $service"
}

# ---------------------------------------------------------------- after the boot

network() {
    for nic in /sys/class/net/e*; do
        [ -e "$nic" ] && ip link set "${nic##*/}" up && udhcpc -i "${nic##*/}" -q -n -t 5 -T 2 -s /etc/udhcpc.sh
    done >/dev/null 2>&1
}

power_button() {
    modprobe -qa button evdev
    for name in /sys/class/input/event*/device/name; do
        grep -q "Power Button" "$name" 2>/dev/null || continue
        event=${name#/sys/class/input/}
        dd if="/dev/input/${event%%/*}" of=/dev/null bs=24 count=1 2>/dev/null && poweroff -f
    done
}

agent() {
    for name in /sys/class/virtio-ports/*/name; do
        [ "$(cat "$name" 2>/dev/null)" = org.qemu.guest_agent.0 ] || continue
        mkdir -p /dev/virtio-ports
        port=$(basename "$(dirname "$name")")
        ln -sf "../$port" /dev/virtio-ports/org.qemu.guest_agent.0
        say "NT stand-in: guest agent on $port"
        qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -f /run/qemu-ga.pid 2>/dev/null
    done
}

main() {
    mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev
    say "NT stand-in: a Linux that applies Windows' boot rules; not Windows"
    STORE=boot/bcd
    [ -d /sys/firmware/efi ] && STORE=efi/microsoft/boot/bcd
    tries=0
    load_drivers
    until find_windows; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || stop_0x7b "no disk with a system volume and a boot store appeared"
        sleep 0.2
    done
    boot_as_nt
    network &
    power_button &
    while :; do
        agent
        sleep 2
    done
}

# Tests read this file for its functions.
[ $$ != 1 ] || main
