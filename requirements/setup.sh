#!/bin/sh
# Makes .venv with the locked dependencies and this package; does nothing when it is there already.
#
#   BACKEND=cpu|gpu   which lock (default: gpu where an NVIDIA driver is found, else cpu)
#   PYTHON=...        which Python 3.11 (default: the first one found)
#
# .venv/.installed holds what was installed: another lock, or another place of the repository,
# means installing again. .venv/.installing marks an install that was interrupted: half a package
# may lie there, so it starts afresh.
set -eu
cd "$(dirname "$0")/.."

fail() { echo "setup: $*" >&2; exit 1; }

is_usable() {
    command -v "$1" >/dev/null 2>&1 &&
        "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' \
            >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3 python; do
        if is_usable "$candidate"; then echo "$candidate"; return; fi
    done
}

backend=${BACKEND:-}
if [ -z "$backend" ]; then
    if nvidia-smi -L >/dev/null 2>&1 || [ -e /proc/driver/nvidia/version ]; then
        backend=gpu; why="an NVIDIA driver is there"
    else
        backend=cpu; why="no NVIDIA driver found"
    fi
else
    why="BACKEND is set"
fi
lock=requirements/$backend.txt
[ -f "$lock" ] || fail "BACKEND=$backend: expected cpu or gpu"

want="$backend $(cat "$lock" pyproject.toml | cksum) $(pwd -P)"
if [ -f .venv/.installed ] && [ "$(cat .venv/.installed)" = "$want" ] &&
    [ ! -e .venv/.installing ] && [ -x .venv/bin/python ]; then
    echo "setup: $backend backend ($why), already installed"
    exit 0
fi

if [ -e .venv/.installing ]; then
    echo "setup: the last install was interrupted, starting afresh"
    rm -rf .venv
fi
python=
if ! is_usable .venv/bin/python; then
    python=$(find_python)
    [ -n "$python" ] ||
        fail "Python 3.11 with venv is needed, and no such python3.11 or python3 was found (PYTHON=/path/to/python3.11 names one)"
fi
echo "setup: $backend backend ($why), installing $(grep -c '==' "$lock") packages into .venv (minutes)"
if [ -n "$python" ]; then
    rm -rf .venv
    mkdir .venv && touch .venv/.installing
    "$python" -m venv .venv
fi
rm -f .venv/.installed
touch .venv/.installing

# --no-deps: the lock is complete, and some packages ask for builds that must stay out (torchvision
# for CUDA breaks imports on CPU). --no-compile: what is never imported is never compiled.
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip"
$pip install --quiet --no-deps --no-compile -r "$lock" ||
    fail "pip could not install $lock (its message is above); run the same command again"
$pip install --quiet --no-deps --no-compile --no-build-isolation --editable . ||
    fail "pip could not install this package"
.venv/bin/python requirements/lock.py installed "$backend" || fail "the installed packages do not fit"
rm .venv/.installing
echo "$want" > .venv/.installed
echo "setup: done"
