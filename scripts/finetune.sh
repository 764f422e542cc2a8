#!/usr/bin/env bash
# Fine-tuning: finetune.sh configs/finetune_NAME.json [key.path=value ...]   CHECKPOINT=MILES.pth NAME_DIR= GPUS= NODES=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
choose finetune "$@"
launch train.py -c "$config" -r auto "${@:2}"
