# Sourced by the recipes: where things are, what to check, how to start on one or many GPUs and nodes.
#
#   PYTHON   interpreter (default: .venv/bin/python if it is there, else python3)
#   GPUS     processes on this node (default: the GPUs that nvidia-smi lists, at least 1)
#   NODES    nodes (default 1), with NODE_RANK and MASTER_ADDR (MASTER_PORT) where there are several; Slurm sets them
set -euo pipefail
CALLED_FROM=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
if [ -z "${GPUS:-}" ]; then
    GPUS=$( (nvidia-smi -L 2>/dev/null || true) | grep -c '^GPU' || true)
    [ "$GPUS" -ge 1 ] || GPUS=1
fi
NODES=${NODES:-1}

# say what is missing and where to get it, then stop
missing() { printf 'missing: %s\n  %s\n' "$1" "$2" >&2; exit 2; }

# need_folder PATH VARIABLE "where to get it"
need_folder() { [ -d "$1" ] || missing "the folder $1 (set $2 to where it is)" "$3"; }

# need_file PATH VARIABLE "where to get it"
need_file() { [ -f "$1" ] || missing "the file $1 (set $2 to where it is)" "$3"; }

# a path that the caller gave from another folder
absolute() { case "$1" in /* | "") printf %s "$1" ;; *) if [ -e "$CALLED_FROM/$1" ]; then printf %s "$CALLED_FROM/$1"; else printf %s "$1"; fi ;; esac; }

# choose KIND [CONFIG ...]: sets and checks $config, which must be given, and $CHECKPOINT (default MILES.pth)
choose() {
    [ $# -ge 2 ] || missing "which config" "bash $0 CONFIG, one of: $(echo configs/"$1"_*.json)"
    config=$(absolute "$2")
    need_file "$config" "the first argument" "one of: $(echo configs/"$1"_*.json)"
    CHECKPOINT=$(absolute "${CHECKPOINT:-MILES.pth}")
    need_file "$CHECKPOINT" CHECKPOINT "a checkpoint of train.py, or the authors' weights: https://github.com/TencentARC/MCQ, MILES.md"
    export CHECKPOINT
}

# launch train.py|test.py ARGUMENTS...   SIGTERM and SIGUSR1 reach all processes, which have a minute to save
launch() {
    "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' ||
        missing "torch for $PYTHON" "bash scripts/setup.sh makes .venv with all that is needed; or set PYTHON"
    local signals=(--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=60)
    if [ "$GPUS" -eq 1 ] && [ "$NODES" -eq 1 ]; then
        exec "$PYTHON" "$@"
    fi
    if [ "$NODES" -eq 1 ]; then
        exec "$PYTHON" -m torch.distributed.run "${signals[@]}" --standalone --nproc_per_node="$GPUS" "$@"
    fi
    : "${MASTER_ADDR:?set MASTER_ADDR to the first node}" "${NODE_RANK:?set NODE_RANK to this node, from 0}"
    exec "$PYTHON" -m torch.distributed.run "${signals[@]}" --nnodes="$NODES" --node_rank="$NODE_RANK" \
        --nproc_per_node="$GPUS" \
        --rdzv_backend=c10d --rdzv_id="${SLURM_JOB_ID:-miles}" --rdzv_endpoint="$MASTER_ADDR:${MASTER_PORT:-29500}" "$@"
}
