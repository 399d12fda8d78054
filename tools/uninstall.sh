#!/bin/sh
# Removes what install.sh installed. Objects, keys and depots stay: they are yours.
#
#   uninstall.sh [--prefix DIR]    DIR as it was installed into; by default where this file lies, or as install.sh
#
# Exit codes: 0 removed, 2 usage, 3 nothing is installed there.
set -eu
usage() { echo "usage: uninstall.sh [--prefix DIR]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
if [ -f "$here/installed" ]; then
    prefix=$(cd "$here/../.." && pwd)
elif [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=${HOME:-}/.local; fi
while [ $# -gt 0 ]; do
    case $1 in
    --prefix) [ $# -ge 2 ] || usage; prefix=$2; shift 2 ;;
    --prefix=*) prefix=${1#--prefix=}; shift ;;
    *) usage ;;
    esac
done
list=$prefix/share/suijuris/installed
[ -f "$list" ] || { echo "error: nothing of Suijuris is installed in $prefix: name another directory with --prefix" >&2; exit 3; }
while IFS= read -r file; do
    rm -f "$prefix/$file"
    # Directories that hold nothing else.
    (cd "$prefix" && rmdir -p "$(dirname "$file")" 2>/dev/null) || true
done <"$list"
rm -f "$list" "$prefix/share/suijuris/uninstall.sh"
rmdir "$prefix/share/suijuris" 2>/dev/null || true
echo "removed from $prefix; objects, keys and depots stay where they are (\${XDG_DATA_HOME:-~/.local/share}/suijuris, and each object's directory)"
