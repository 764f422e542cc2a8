#!/usr/bin/env bash
# Both stages of pre-training in one command: pretrain_curriculum.sh [CONFIG] [key.path=value ...]   CC3M_DIR= WEBVID_DIR= GPUS= NODES=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
config=configs/pretrain_curriculum.json
case "${1:-}" in *.json) config=$(absolute "$1"); shift ;; esac
need_file "$config" "the first argument" "one of: $(echo configs/pretrain_curriculum*.json)"
need_data "$config" "$@"
launch train.py -c "$config" -r auto "$@"
