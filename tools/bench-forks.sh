#!/bin/sh
# Eight warm forks that serve against eight cold boots, in one run: `sh tools/bench-forks.sh [COUNT]`.
# Needs what docs/vm.md names, curl, busybox; SUIJURIS names the program [default: target/release/suijuris], SUIJURIS_KERNEL the kernel.
# Times are from the first request to the last answer, all at once; memory is what is each emulator's alone once it has served.
set -eu
count=${1:-8}
repository=$(cd "$(dirname "$0")/.." && pwd)
suijuris=${SUIJURIS:-$repository/target/release/suijuris}
export SUIJURIS_KERNEL="${SUIJURIS_KERNEL:-$repository/target/test/kernel}"
home=$(mktemp -d)
export HOME="$home"
unset XDG_DATA_HOME XDG_CONFIG_HOME XDG_RUNTIME_DIR || true
daemon=
trap '[ -z "$daemon" ] || kill "$daemon"; wait; rm -rf "$home"' EXIT
cp -r "$repository/examples/vm" "$home/vm"
cat >> "$home/vm/object.toml" <<'TOML'

[lineage]
warm_forks = true
TOML
cat >> "$home/vm/governance.cedar" <<'CEDAR'

@id("warm-forks")
permit (principal is Controller, action == Action::"fork", resource) when { context.warm };
CEDAR
sed -i 's/default = "3s"/default = "60s"/' "$home/vm/object.toml"
cp -r "$home/vm" "$home/parent"
sed -i 's/default = "60s"/default = "2s"/; s/^name = "vm"/name = "parent"/' "$home/parent/object.toml"

cd "$home"
"$suijuris" serve --vehicle qemu --json --listen 127.0.0.1:0 > events 2> said &
daemon=$!
event() { # NAME TEXT: waits for an event with that in it, so many times
  tries=0
  until [ "$(grep -c "$1.*$2\|$2.*$1" events || true)" -ge "${3:-1}" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 6000 ] || { echo "no $1 $2"; tail -5 events said; exit 1; }
    sleep 0.1
  done
}
event listening urls
url=$(grep -o 'http://127.0.0.1:[0-9]*' events | head -1)

# All at once; seconds until the last has answered.
all() {
  begin=$(date +%s.%N)
  requests=
  for name in "$@"; do
    curl -fsS --max-time 900 -o /dev/null "$url/o/$name/" &
    requests="$requests $!"
  done
  for request in $requests; do
    wait "$request"
  done
  end=$(date +%s.%N)
  echo "$begin $end" | awk '{ printf "%.2f", $2 - $1 }'
}
names() { for number in $(seq "$count"); do printf '%s-%s ' "$1" "$number"; done; }

"$suijuris" add parent > /dev/null
curl -fsS -o /dev/null "$url/o/parent/"
event machine '"suspended"'
begin=$(date +%s.%N)
"$suijuris" fork parent --warm --to warm --count "$count" --json > born
end=$(date +%s.%N)
echo "made: $count warm forks in $(echo "$begin $end" | awk '{ printf "%.2f", $2 - $1 }') s"
warm=$(all $(names warm))
sleep 1
echo "serving: $count warm forks in $warm s"
for pid in $(pgrep -f "qemu-system.*$home"); do
  awk '/^Pss:|^Private/ { sum[$1] += $2 } END { printf "  pid %s: PSS %.1f MiB, private %.1f MiB\n", "'"$pid"'", sum["Pss:"] / 1024, (sum["Private_Clean:"] + sum["Private_Dirty:"]) / 1024 }' "/proc/$pid/smaps_rollup" 2> /dev/null || true
done
event machine '"suspended"' $((count + 1))
for number in $(seq "$count"); do
  "$suijuris" add vm --name "cold-$number" > /dev/null
done
cold=$(all $(names cold))
echo "serving: $count cold boots in $cold s"
echo "$warm $cold" | awk '{ printf "ratio: %.1f\n", $2 / $1 }'
