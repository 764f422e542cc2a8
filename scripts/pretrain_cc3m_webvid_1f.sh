#!/usr/bin/env bash
# Pre-training, first stage: 1 frame, CC3M and WebVid in turn.   CC3M_DIR= WEBVID_DIR= GPUS= NODES=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
need_folder "${CC3M_DIR:-data/CC3M}" CC3M_DIR "Conceptual Captions: https://ai.google.com/research/ConceptualCaptions, images by img2dataset"
need_folder "${WEBVID_DIR:-data/WebVid}" WEBVID_DIR "WebVid: its official download has ended; see README, Data"
launch train.py -c configs/pretrain_cc3m_webvid_1f.json -r auto "$@"
