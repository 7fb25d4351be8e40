# A daemon in the freezer of cgroup v1, where it may; there, not even SIGKILL ends it.
cell=${0%/*}
freezer=/sys/fs/cgroup/freezer/escape-${cell##*/}
setsid "$cell/hold" &
until [ -s "$cell/registry" ]; do sleep 0.01; done
{ mkdir "$freezer" && echo $! >"$freezer/cgroup.procs" && echo FROZEN >"$freezer/freezer.state"; } 2>/dev/null
: >"$cell/ready"
[ "$1" = exit ] || exec "$cell/hold"
