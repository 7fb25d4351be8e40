# One daemon in the root of cgroup v2, one in a new leaf beside its own, where it may.
. "${0%/*}/cgroup.sh"
(enter "$root"; setsid "$cell/hold" &)
(enter "${own%/*}/$name"; setsid "$cell/hold" &)
last "$1"
