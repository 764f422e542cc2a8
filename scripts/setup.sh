#!/usr/bin/env bash
# Makes .venv if there is none, installs the packages of requirements.lock into it and this project as editable; a second
# run finds all there and does nothing.
#   VENV    where the environment is or is to be (default .venv)
#   PYTHON  the Python that makes it (default python3; 3.11 or newer)
#   LOCK    no: the newest packages that requirements.txt and the extra dev allow, in place of the locked ones
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
LOCK=${LOCK:-yes}
stamp=$VENV/.miles-requirements
if [ ! -x "$VENV/bin/python" ]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "setup: $("$PYTHON" --version 2>&1) is too old, 3.11 or newer is needed: PYTHON=python3.12 bash $0" >&2; exit 2; }
    echo "setup: making $VENV"
    "$PYTHON" -m venv "$VENV" || {
        echo "setup: python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
fi
wanted="lock $LOCK, $PWD, $(cat pyproject.toml requirements.txt requirements.lock | sha256sum)"
if [ "$wanted" != "$(cat "$stamp" 2>/dev/null)" ]; then
    pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check)
    if [ "$LOCK" = no ]; then
        echo "setup: installing the newest allowed packages into $VENV (torch alone is about 6 GB)"
        "${pip[@]}" --upgrade -e ".[dev]"
    else
        echo "setup: installing requirements.lock into $VENV (torch alone is about 6 GB)"
        "${pip[@]}" --require-hashes -r requirements.lock
        "${pip[@]}" --no-deps -e .
    fi
    echo "$wanted" > "$stamp"
fi
