#!/bin/sh
# Make a virtual environment at $1 with the first Python of at least 3.10, or say what to install.
set -eu
venv=$1
for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "${python:-}" ]; then
    echo "No Python of at least 3.10 was found. Install one: apt-get install python3 python3-venv" >&2
    exit 1
fi
# Debian and Ubuntu ship ensurepip in a package of its own.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq "python$version-venv" || apt-get install -y -qq python3-venv
    else
        echo "$python cannot make virtual environments. Install that part: sudo apt-get install python3-venv" >&2
        exit 1
    fi
fi
rm -rf "$venv"
"$python" -m venv "$venv"
