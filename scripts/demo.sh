#!/usr/bin/env bash
# The whole way once, on a machine with nothing but Python: data, pre-training, evaluation, figures, report.
#   demo.sh [key.path=value ...]      settings for train.py and test.py, e.g. trainer.epochs=3
#   VENV, PYTHON: see setup.sh        DEMO_DIR: where the data is made (default data/demo)
#   SAVE_DIR: where runs go (default exps)
# A second run finds the environment and the data, and trains anew in a run folder of its own.
set -euo pipefail
bash "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
export DEMO_DIR=${DEMO_DIR:-data/demo} SAVE_DIR=${SAVE_DIR:-exps}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
times=()

# part NAME COMMAND...: run it, remember how long it took
part() {
    local name=$1 begin=$SECONDS
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@"
    times+=("$(printf '%-14s %4d s' "$name" $((SECONDS - begin)))")
}

part data "$VENV/bin/python" scripts/make_demo_data.py --out "$DEMO_DIR"
part pre-training "$VENV/bin/python" train.py -c configs/demo.json "$@"
run=$(ls -td "$SAVE_DIR"/demo/*/ | head -n 1)
run=${run%/}
part evaluation "$VENV/bin/python" test.py -c configs/demo.json -r "$run/model_best.pth" -o "$run/test" --save-ranks --save-embeddings "$@"
clips=("$DEMO_DIR"/videos/test/0000{0,4}.mp4)
part attention "$VENV/bin/python" scripts/visualize.py attention -r "$run/model_best.pth" "${clips[@]}" -o "$run/attention.png"
part masking "$VENV/bin/python" scripts/visualize.py masking -r "$run/model_best.pth" "${clips[@]}" -o "$run/masking.png"
part alignment "$VENV/bin/python" scripts/visualize.py alignment -r "$run/model_best.pth" "${clips[0]}" --text "pink wedge" -o "$run/alignment.png"
part report "$VENV/bin/python" scripts/report.py "$run"

printf '\n'
printf '%s\n' "${times[@]}"
"$VENV/bin/python" -c 'import json; print(json.load(open("results/demo.json"))["says"])'
echo "run:     $run (log.jsonl, TensorBoard), numbers: $run/test/results.json"
echo "figures: $run/attention.png, $run/masking.png, $run/alignment.png"
echo "report:  $run/report.html (open it in a browser)"
