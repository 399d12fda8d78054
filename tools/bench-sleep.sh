#!/bin/sh
# How long an object takes to fall asleep once its rule says so, and what it costs asleep: one `up` with a private network.
# usage: tools/bench-sleep.sh [ROUNDS] [PATH OF suijuris]
set -eu
rounds=${1:-25}
program=${2:-target/dist/suijuris}
program=$(cd "$(dirname "$program")" && pwd)/$(basename "$program")
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
cd "$home"
mkdir -p sleeper/public
echo hello >sleeper/public/index.html
cat >sleeper/object.toml <<'TOML'
name = "sleeper"
[workload]
command = ["python3", "-m", "http.server", "{port}", "--bind", "127.0.0.1", "--directory", "{object}/public"]
network = "private"
TOML
cat >sleeper/governance.cedar <<'CEDAR'
@id("open") permit (principal, action in [Action::"wake", Action::"admit", Action::"sleep"], resource);
@id("briefly") permit (principal, action == Action::"remain", resource)
when { context.activity.in_flight > 0 || context.activity.idle < duration("20ms") };
CEDAR
export SUIJURIS_OWNER_KEY="$home/owner.key" HOME="$home"
exec python3 - "$rounds" "$program" <<'PYTHON'
import json, os, socket, subprocess, sys, time

rounds, program = int(sys.argv[1]), sys.argv[2]
up = subprocess.Popen([program, "up", "sleeper", "--port", "0", "--json"], stdout=subprocess.PIPE, text=True)

def event(kind):
    for line in up.stdout:
        said = json.loads(line)
        if said["event"] == kind:
            return said
    sys.exit(f"up ended before it said {kind}")

port = int(event("listening")["url"].rstrip("/").rsplit(":", 1)[1])

def ask():
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while s.recv(65536):
            pass
    return time.perf_counter()

asleep = []
for _ in range(rounds):
    ended = ask()
    event("dormant")
    asleep.append((time.perf_counter() - ended) * 1000 - 20)
    time.sleep(0.3)
asleep.sort()
at = lambda part: asleep[min(len(asleep) - 1, int(len(asleep) * part))]
print(f"answered, and 20 ms idle, to `dormant` durable: p50 {at(0.5):.1f} ms, p90 {at(0.9):.1f} ms, most {asleep[-1]:.1f} ms of {rounds}")

def family(pid):
    found = [pid]
    for line in os.popen("ps -e -o pid= -o ppid=").read().splitlines():
        child, parent = map(int, line.split())
        if parent in found:
            found.append(child)
    return found

def switches(pids):
    each = {}
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/status") as status:
                each[task] = sum(int(line.split()[1]) for line in status if line.startswith("voluntary"))
    return each

time.sleep(12)  # Threads that nobody needs any more end after ten seconds.
pids = family(up.pid)
before, began = switches(pids), time.perf_counter()
time.sleep(20)
after, took = switches(pids), time.perf_counter() - began
rate = sum(count - before[task] for task, count in after.items() if task in before) / took
kib = lambda pid: sum(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("RssAnon"))
print(f"asleep: {rate:.1f} wake-ups a second in {len(pids)} processes, {' + '.join(str(kib(pid)) for pid in pids)} KiB of memory of their own")
try:
    traced = subprocess.run(["timeout", "10", "strace", "-f", "-c", "-e", "trace=fsync,fdatasync", "-p", str(up.pid)], capture_output=True, text=True)
    calls = [line for line in traced.stderr.splitlines() if "sync" in line and "%" not in line]
    print("syncs in 10 s asleep:", "; ".join(calls) or "none")
except FileNotFoundError:
    print("strace is not there: syncs were not counted")
up.terminate()
up.wait()
PYTHON
