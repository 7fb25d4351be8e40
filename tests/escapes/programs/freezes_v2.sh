# Daemons that freeze a cgroup v2 of their own, and the one that agentsup has put them in.
. "${0%/*}/cgroup.sh"
(enter "$own/$name" && setsid "$cell/hold" & echo 1 >"$own/$name/cgroup.freeze") 2>/dev/null
setsid "$cell/hold" &
ready
apart && echo 1 >"$own/cgroup.freeze"
last "$1"
