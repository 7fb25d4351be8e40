# What people type: nohup … &
cell=${0%/*}
nohup "$cell/hold" >/dev/null 2>&1 &
until [ -s "$cell/registry" ]; do sleep 0.01; done
: >"$cell/ready"
[ "$1" = exit ] || exec "$cell/hold"
