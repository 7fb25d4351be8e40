# What the programs share that deal with cgroup v2. Without the right, each is a mere daemon.
cell=${0%/*}
name=escape-${cell##*/}
root=/sys/fs/cgroup
[ -e $root/cgroup.controllers ] || root=$root/unified
own=$root$(sed -n s/^0:://p /proc/self/cgroup)
exec 2>/dev/null

enter() {
    mkdir -p "$1"
    echo 0 >"$1/cgroup.procs"
}

# Is its cgroup another one than the test's? Only there may it do its worst.
apart() {
    [ -n "$ESCAPE_CGROUP" ] && [ "$(sed -n s/^0:://p /proc/self/cgroup)" != "$ESCAPE_CGROUP" ]
}

ready() {
    until [ -s "$cell/registry" ]; do sleep 0.01; done
    : >"$cell/ready"
}

last() {
    ready
    [ "$1" = exit ] || exec "$cell/hold"
}
