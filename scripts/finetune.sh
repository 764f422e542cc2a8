#!/usr/bin/env bash
# Fine-tuning: finetune.sh configs/finetune_NAME.json [key.path=value ...]   CHECKPOINT=MILES.pth NAME_DIR= GPUS= NODES=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
[ $# -ge 1 ] || missing "on what" "bash scripts/finetune.sh CONFIG, one of: $(echo configs/finetune_*.json)"
config=$(absolute "$1"); shift
need_file "$config" "the first argument" "one of: $(echo configs/finetune_*.json)"
CHECKPOINT=$(absolute "${CHECKPOINT:-MILES.pth}")
need_file "$CHECKPOINT" CHECKPOINT "a checkpoint of train.py, or the authors' weights: https://github.com/TencentARC/MCQ, MILES.md"
export CHECKPOINT
launch train.py -c "$config" -r auto "$@"
