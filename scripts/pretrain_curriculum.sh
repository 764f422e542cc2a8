#!/usr/bin/env bash
# Both stages of pre-training in one command: pretrain_curriculum.sh [CONFIG] [key.path=value ...]   CC3M_DIR= WEBVID_DIR= GPUS= NODES=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
need_folder "${CC3M_DIR:-data/CC3M}" CC3M_DIR "Conceptual Captions: https://ai.google.com/research/ConceptualCaptions, images by img2dataset"
need_folder "${WEBVID_DIR:-data/WebVid}" WEBVID_DIR "WebVid: its official download has ended; see README, Data"
config=configs/pretrain_curriculum.json
case "${1:-}" in *.json) config=$(absolute "$1"); shift ;; esac
launch train.py -c "$config" -r auto "$@"
