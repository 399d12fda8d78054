#!/bin/sh
# Becomes the worker that `cargo build --example agent` has built.
for profile in release debug; do
    worker=$(dirname "$0")/../../target/$profile/examples/agent
    if [ -x "$worker" ]; then
        exec "$worker" "$@"
    fi
done
echo 'the worker is not built yet: run `cargo build --example agent`' >&2
exit 1
