#!/usr/bin/env bash
# Zero-shot test: test_retrieval.sh configs/zero_NAME.json [key.path=value ...]   CHECKPOINT=MILES.pth NAME_DIR= GPUS=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
choose zero "$@"
launch test.py -c "$config" --compare "${@:2}"
