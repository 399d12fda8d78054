#!/bin/sh
# Installs Suijuris from an unpacked archive, or over an older version.
#
#   ./install.sh                   into /usr/local as root, into ~/.local otherwise
#   ./install.sh --prefix DIR      into DIR
#   ./uninstall.sh [--prefix DIR]  removes what was installed; objects stay
#
# A daemon that runs goes on with the program that it was started as, until it is restarted.
# Exit codes: 0 installed, 2 usage, 3 it cannot be.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

usage() { echo "usage: install.sh [--prefix DIR]" >&2; exit 2; }
fail() { echo "error: $*" >&2; exit 3; }

if [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=${HOME:-}/.local; fi
while [ $# -gt 0 ]; do
    case $1 in
    --prefix) [ $# -ge 2 ] || usage; prefix=$2; shift 2 ;;
    --prefix=*) prefix=${1#--prefix=}; shift ;;
    *) usage ;;
    esac
done
[ "$prefix" != /.local ] || fail "HOME is not set: name a directory with --prefix"
case $prefix in /*) ;; *) prefix=$(pwd)/$prefix ;; esac
[ -f "$here/bin/suijuris" ] || fail "$here/bin/suijuris is not there: run install.sh where the archive was unpacked"

list=$prefix/share/suijuris/installed
mkdir -p "$prefix/share/suijuris" 2>/dev/null && [ -w "$prefix/share/suijuris" ] ||
    fail "$prefix cannot be written: run this as root, or name another directory with --prefix"

# Each file appears whole: a program that runs may not be written to, and a cut copy may not be left.
files=$(cd "$here" && find bin lib share -type f | sort)
for file in $files; do
    mkdir -p "$prefix/$(dirname "$file")" || fail "$prefix/$(dirname "$file") cannot be made"
    if ! cp "$here/$file" "$prefix/$file.new" || ! mv -f "$prefix/$file.new" "$prefix/$file"; then
        rm -f "$prefix/$file.new"
        fail "$prefix/$file cannot be written; what was there before stays: mend that and run this again"
    fi
done
cp "$here/uninstall.sh" "$prefix/share/suijuris/uninstall.sh"
# What an older version brought and this one does not.
if [ -f "$list" ]; then
    while IFS= read -r old; do
        echo "$files" | grep -qxF "$old" || rm -f "$prefix/$old"
    done <"$list"
fi
echo "$files" >"$list.new" && mv -f "$list.new" "$list"

echo "installed $("$prefix/bin/suijuris" --version) in $prefix/bin"
case :${PATH:-}: in
*":$prefix/bin:"*) ;;
*) echo "add it to your PATH: export PATH=\"$prefix/bin:\$PATH\"" ;;
esac
echo "next: suijuris new http hello && suijuris up hello"
echo "a daemon that runs is replaced by: kill -HUP its process, or systemctl restart suijuris"
