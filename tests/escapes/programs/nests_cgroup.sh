# A daemon at the bottom of eight cgroups that it nests in its own (cgroup v2), where it may.
. "${0%/*}/cgroup.sh"
(
    deeper=$own
    for _ in 1 2 3 4 5 6 7 8; do
        deeper=$deeper/$name
        enter "$deeper"
    done
    setsid "$cell/hold" &
)
last "$1"
