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
python3 - "$n" "$port" "$daemon" "$home" <<'PYTHON'
import os, socket, sys, time
from concurrent.futures import ThreadPoolExecutor

n, port, daemon, home = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]

def ask(key):
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(f"GET / HTTP/1.1\r\nHost: {key}.many.localhost\r\nConnection: close\r\n\r\n".encode())
        assert b" 403 " in s.recv(65536)
    return time.perf_counter() - begun

def rest(key):
    time.sleep(0.25)
    return ask(key)

def peer(i):
    """What a database would do at the least: a file of this size, written, synced, put in place, its directory synced."""
    begun = time.perf_counter()
    with open(f"{home}/peer.tmp", "wb") as f:
        f.write(bytes(500))
        f.flush()
        os.fdatasync(f.fileno())
    os.rename(f"{home}/peer.tmp", f"{home}/peer.{i}")
    directory = os.open(home, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    return time.perf_counter() - begun

def cpu():
    fields = open(f"/proc/{daemon}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

def rounds(what, ask, keys, at_once):
    begun, spent = time.perf_counter(), cpu()
    with ThreadPoolExecutor(at_once) as pool:
        took = sorted(pool.map(ask, keys))
    took_all, spent, m = time.perf_counter() - begun, cpu() - spent, len(took)
    print(f"{what}, {at_once} at once: {m / took_all:.0f}/s, p50 {took[m // 2] * 1000:.2f} ms, p99 {took[m * 99 // 100] * 1000:.2f} ms,",
          f"{spent / m * 1e6:.0f} us of CPU each")

loop = min(200, n // 4)
keys = [f"k{i}" for i in range(n)]
rounds("one file durable by hand", peer, range(loop), 1)
rounds("founded and refused", ask, keys[:loop], 1)
rounds("founded and refused from rest", rest, keys[loop:loop + 20], 1)
rounds("founded and refused", ask, keys[loop + 20:], 16)
# Until what was founded is published too.
time.sleep(6)
rounds("refused by name", ask, keys, 1)
rounds("refused by name", ask, keys, 16)
PYTHON
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
