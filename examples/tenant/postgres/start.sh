#!/bin/sh
# start.sh PORT DATA: makes the tenant's cluster where there is none, and runs it.
set -eu
port=$1 data=$2
for bin in /usr/lib/postgresql/*/bin; do PATH=$bin:$PATH; done
command -v initdb >/dev/null || { echo "postgresql is not installed: apt-get install postgresql" >&2; exit 1; }
if [ ! -e "$data/db/PG_VERSION" ]; then
    # Made whole or not at all: a start that was cut off begins anew.
    rm -rf "$data/new"
    # Who may connect is decided at the gate.
    initdb --pgdata="$data/new" --username=tenant --auth=trust --encoding=UTF8 --no-instructions >/dev/null
    mv "$data/new" "$data/db"
fi
exec postgres -D "$data/db" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories=
