#!/usr/bin/env bash
# Makes .venv if there is none and installs requirements.txt into it; a second run finds all there and does nothing.
#   VENV    where the environment is or is to be (default .venv)
#   PYTHON  the Python that makes it (default python3; 3.11 or newer)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
stamp=$VENV/.miles-requirements
if [ ! -x "$VENV/bin/python" ]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "setup: $("$PYTHON" --version 2>&1) is too old, 3.11 or newer is needed: PYTHON=python3.12 bash $0" >&2; exit 2; }
    echo "setup: making $VENV"
    "$PYTHON" -m venv "$VENV" || {
        echo "setup: python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
fi
if ! cmp -s requirements.txt "$stamp"; then
    echo "setup: installing requirements.txt into $VENV (torch alone is about 6 GB)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt "$stamp"
fi
