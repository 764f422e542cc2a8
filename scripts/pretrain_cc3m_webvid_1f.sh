#!/usr/bin/env bash
# Pre-training, first stage: 1 frame, CC3M and WebVid in turn.   CC3M_DIR= WEBVID_DIR= GPUS= NODES=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
need_data configs/pretrain_cc3m_webvid_1f.json "$@"
launch train.py -c configs/pretrain_cc3m_webvid_1f.json -r auto "$@"
