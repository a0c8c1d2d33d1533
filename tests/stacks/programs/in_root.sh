#!/bin/sh
# A program of another distribution, as in a container: in_root.sh ROOT SHARED COMMAND...
# Its namespaces of mounts and processes are its own, its network is the host's; folder SHARED and /tmp are shared.
root=$1
shared=$2
shift 2
test -d "$root/usr" || exit 127
mkdir -p "$root$shared" "$root/tmp" "$root/proc"
# shellcheck disable=SC2016 # for the shell in there
exec unshare --mount --pid --fork --kill-child sh -c '
    mount -t proc proc "$0/proc"
    mount --rbind /dev "$0/dev"
    mount --bind /tmp "$0/tmp"
    mount --bind "$1" "$0$1"
    shift
    exec chroot "$0" env --chdir="$PWD" "$@"
' "$root" "$shared" "$@"
