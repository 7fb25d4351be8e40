# Makes its cgroup v2 a threaded one, where cgroup.kill and cgroup.procs are no longer to be had.
. "${0%/*}/cgroup.sh"
apart && echo threaded >"$own/cgroup.type"
(enter "$own/$name" && echo threaded >"$own/$name/cgroup.type") 2>/dev/null
setsid "$cell/hold" &
last "$1"
