#!/usr/bin/env bash
# Zero-shot MSR-VTT with the authors' released settings and weights (./MILES.pth).   GPUS=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
case " $* " in *load_checkpoint=* | *data_dir=* | *" -r "*) ;; *)
    need_file MILES.pth "arch.args.load_checkpoint, or put it there" "the authors' weights: https://github.com/TencentARC/MCQ, MILES.md"
    need_folder data/MSRVTT "data_loader.args.data_dir" "MSR-VTT: see README, Data" ;;
esac
launch test.py -c configs/zero_msrvtt_4f_i21k_MILES.json --compare "$@"
