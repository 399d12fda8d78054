#!/bin/sh
# Sleepers in one process: founds N instances of a class that never wakes, and prints what they cost.
# usage: tools/bench-serve.sh [N] [PATH OF suijuris]
set -eu
n=${1:-1000}
program=${2:-target/release/suijuris}
program=$(cd "$(dirname "$program")" && pwd)/$(basename "$program")
home=$(mktemp -d)
trap 'kill "$daemon" 2>/dev/null || true; rm -rf "$home"' EXIT
daemon=
cd "$home"
export SUIJURIS_DEPOT="$home/depot" SUIJURIS_OWNER_KEY="$home/owner.key" SUIJURIS_SERVER="$home/root"
"$program" new class many >/dev/null 2>&1
echo '@id("found") permit (principal, action == Action::"instantiate", resource);' >many/governance.cedar
sed -i 's/^max_instances.*/max_instances = 1000000/; s/^\[class\]/[class]\nper_peer = 100000\nper_class = 100000/' many/object.toml

serve() {
    "$program" serve root --listen 127.0.0.1:0 --json >log 2>&1 &
    daemon=$!
    until grep -q '"listening"' log; do sleep 0.05; done
}

cost() {
    echo "$1: $(ls "/proc/$daemon/task" | wc -l) threads, $(ls "/proc/$daemon/fd" | wc -l) descriptors," \
        "$(awk '/RssAnon/ { print $2 }' "/proc/$daemon/status") KiB of memory of its own"
}

serve
"$program" add many >/dev/null 2>&1
port=$(sed -n 's/.*127\.0\.0\.1:\([0-9]*\)".*/\1/p' log | head -1)
python3 - "$n" "$port" <<'PYTHON'
import socket, sys, time
from concurrent.futures import ThreadPoolExecutor

n, port = int(sys.argv[1]), int(sys.argv[2])

def ask(i):
    begun = time.time()
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(f"GET / HTTP/1.1\r\nHost: k{i}.many.localhost\r\nConnection: close\r\n\r\n".encode())
        assert b" 403 " in s.recv(65536)
    return time.time() - begun

for what in ("founded and refused", "refused by name"):
    begun = time.time()
    with ThreadPoolExecutor(16) as pool:
        took = sorted(pool.map(ask, range(n)))
    print(f"{what}: {n / (time.time() - begun):.0f}/s, p50 {took[n // 2] * 1000:.1f} ms, p99 {took[n * 99 // 100] * 1000:.1f} ms")
PYTHON
sleep 6
cost "asleep"
ticks() { awk '{ print $14 + $15 }' "/proc/$daemon/stat"; }
before=$(ticks)
sleep 10
echo "CPU in 10 s asleep: $(($(ticks) - before)) ticks of 10 ms"
kill "$daemon"
wait "$daemon" || true
begun=$(date +%s%N)
serve
until [ "$("$program" ps --phase dormant --json | grep -o '"object":' | wc -l)" -ge "$n" ]; do sleep 0.2; done
echo "all open after a restart: $((($(date +%s%N) - begun) / 1000000)) ms"
cost "opened"
