#!/usr/bin/env bash
# Pre-training, second stage: 4 frames on WebVid, from the first stage.   STAGE1=CHECKPOINT WEBVID_DIR= GPUS= NODES=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
need_data configs/pretrain_webvid_4f.json "$@"
STAGE1=$(absolute "${STAGE1:-}")
need_file "${STAGE1:-(STAGE1 is not set)}" STAGE1 "the last checkpoint of bash scripts/pretrain_cc3m_webvid_1f.sh"
export STAGE1
launch train.py -c configs/pretrain_webvid_4f.json -r auto "$@"
