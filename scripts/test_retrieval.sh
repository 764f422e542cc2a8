#!/usr/bin/env bash
# Zero-shot test: test_retrieval.sh configs/zero_NAME.json [key.path=value ...]   CHECKPOINT=MILES.pth NAME_DIR= GPUS=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
[ $# -ge 1 ] || missing "which test" "bash scripts/test_retrieval.sh CONFIG, one of: $(echo configs/zero_*.json)"
config=$(absolute "$1"); shift
need_file "$config" "the first argument" "one of: $(echo configs/zero_*.json)"
CHECKPOINT=$(absolute "${CHECKPOINT:-MILES.pth}")
need_file "$CHECKPOINT" CHECKPOINT "a checkpoint of train.py, or the authors' weights: https://github.com/TencentARC/MCQ, MILES.md"
export CHECKPOINT
launch test.py -c "$config" --compare "$@"
