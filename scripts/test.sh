#!/usr/bin/env bash
# The linter and the tests, complete on a fresh machine: test.sh [pytest's arguments]
#   test.sh -m "not slow"          the quick part, under a minute
#   test.sh tests/model            one folder
set -euo pipefail
bash "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
# Some virtual machines promise AMX and trap at its first instruction, which oneDNN would use for bf16.
export ONEDNN_MAX_CPU_ISA=${ONEDNN_MAX_CPU_ISA:-AVX512_CORE_BF16}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$VENV/bin/ruff" check .
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile --timeout 300 "$@"
