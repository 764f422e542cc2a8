# Sourced by the recipes: where things are, what to check, how to start on one or many GPUs and nodes.
#
#   PYTHON   interpreter (default: .venv/bin/python if it is there, else python3)
#   GPUS     processes on this node (default: the GPUs that nvidia-smi lists, at least 1)
#   NODES    nodes (default 1), with NODE_RANK and MASTER_ADDR (MASTER_PORT) where there are several; scripts/slurm.sbatch
#            sets them
#   SAVE_DIR where runs go (default exps)
# Paths in variables and the config are relative to where the recipe is called; in settings (key.path=value) and in
# configs they are relative to the repository.
set -euo pipefail
CALLED_FROM=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${GPUS:-}" ]; then
    GPUS=$( (nvidia-smi -L 2>/dev/null || true) | grep -c '^GPU' || true)
    [ "$GPUS" -ge 1 ] || GPUS=1
fi
NODES=${NODES:-1}

# a path that the caller gave from another folder
absolute() { case "$1" in /* | "") printf %s "$1" ;; *) if [ -e "$CALLED_FROM/$1" ]; then printf %s "$CALLED_FROM/$1"; else printf %s "$1"; fi ;; esac; }

for name in CC3M_DIR WEBVID_DIR MSRVTT_DIR MSVD_DIR LSMDC_DIR DIDEMO_DIR UCF101_DIR HMDB51_DIR; do
    [ -z "${!name:-}" ] || export "$name=$(absolute "${!name}")"
done
case "${SAVE_DIR:-/}" in /*) ;; *) export SAVE_DIR=$CALLED_FROM/$SAVE_DIR ;; esac  # need not be there yet
case "${PYTHON:-}" in */*) PYTHON=$(absolute "$PYTHON") ;; esac
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi

# say what is missing and where to get it, then stop
missing() { printf 'missing: %s\n  %s\n' "$1" "$2" >&2; exit 2; }

# need_folder PATH VARIABLE "where to get it"
need_folder() { [ -d "$1" ] || missing "the folder $1 (set $2 to where it is)" "$3"; }

# need_file PATH VARIABLE "where to get it"
need_file() { [ -f "$1" ] || missing "the file $1 (set $2 to where it is)" "$3"; }

# where to get what the folder in a variable holds
source_of() {
    case "$1" in
        CC3M_DIR) echo "Conceptual Captions: https://ai.google.com/research/ConceptualCaptions, images by img2dataset" ;;
        WEBVID_DIR) echo "WebVid: its official download has ended; copies are read as they are, see docs/data.md" ;;
        MSRVTT_DIR) echo "MSR-VTT: https://www.robots.ox.ac.uk/~maxbain/frozen-in-time/data/MSRVTT.zip; other layouts: docs/data.md" ;;
        MSVD_DIR) echo "MSVD: https://www.cs.utexas.edu/users/ml/clamp/videoDescription/, and the split lists (docs/data.md)" ;;
        LSMDC_DIR) echo "LSMDC: https://sites.google.com/site/describingmovies/, after a signed agreement" ;;
        DIDEMO_DIR) echo "DiDeMo: https://github.com/LisaAnne/LocalizingMoments" ;;
        UCF101_DIR) echo "UCF101: https://www.crcv.ucf.edu/data/UCF101.php, videos and train/test lists" ;;
        HMDB51_DIR) echo "HMDB51: https://serre.lab.brown.edu/hmdb51.html, videos and the three splits" ;;
        *) echo "the data that the config names" ;;
    esac
}

# need_data CONFIG [key.path=value ...]: every folder that the config names as ${NAME_DIR:-default}, or, if it names no
# folder, its base; a folder written plainly, and a data_dir among the settings, is the caller's own affair
need_data() {
    case " ${*:2} " in *data_dir=*) return 0 ;; esac
    local base name default
    if ! grep -q '"data_dir"' "$1"; then
        base=$(sed -nE 's/.*"base": *"([^"]+)".*/\1/p' "$1")
        case "$base" in /*) ;; *) base=$(dirname "$1")/$base ;; esac
        [ ! -f "$base" ] || need_data "$base"
        return 0
    fi
    while read -r name default; do
        [ -z "$name" ] || need_folder "${!name:-$default}" "$name" "$(source_of "$name")"
    done < <(sed -nE 's/.*"data_dir": *"\$\{([A-Z0-9_]+):-([^}]*)\}".*/\1 \2/p' "$1" | sort -u)
}

# choose KIND [CONFIG ...]: sets and checks $config, which must be given, and $CHECKPOINT (default MILES.pth)
choose() {
    [ $# -ge 2 ] || missing "which config" "bash $0 CONFIG, one of: $(echo configs/"$1"_*.json)"
    config=$(absolute "$2")
    need_file "$config" "the first argument" "one of: $(echo configs/"$1"_*.json)"
    CHECKPOINT=$(absolute "${CHECKPOINT:-MILES.pth}")
    [ -e "$CHECKPOINT" ] || missing "the file $CHECKPOINT (set CHECKPOINT to where it is)" "a checkpoint or run folder of train.py, or the authors' weights: https://github.com/TencentARC/MCQ, MILES.md"
    export CHECKPOINT
    need_data "$config" "${@:3}"
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
