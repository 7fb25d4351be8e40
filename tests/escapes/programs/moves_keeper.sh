# Moves its parent, the keeper, to its own cgroup v2, so that both would be killed together.
. "${0%/*}/cgroup.sh"
apart && echo $PPID >"$own/cgroup.procs"
setsid "$cell/hold" &
last "$1"
