#!/usr/bin/env bash
# Zero-shot MSR-VTT with the authors' released settings and weights: test_retrieval_MILES.sh [key.path=value ...]
#   CHECKPOINT= (default ./MILES.pth) MSRVTT_DIR= (default data/MSRVTT) SAVE_DIR= (default exps) GPUS=
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
settings=("$@")  # the released file knows no variables
case " $* " in *load_checkpoint=* | *" -r "*) ;; *)
    CHECKPOINT=$(absolute "${CHECKPOINT:-MILES.pth}")
    need_file "$CHECKPOINT" CHECKPOINT "the authors' weights: https://github.com/TencentARC/MCQ, MILES.md"
    [ "$CHECKPOINT" = MILES.pth ] || settings+=("arch.args.load_checkpoint=$CHECKPOINT") ;;
esac
case " $* " in *data_dir=*) ;; *)
    need_folder "${MSRVTT_DIR:-data/MSRVTT}" MSRVTT_DIR "$(source_of MSRVTT_DIR)"
    [ -z "${MSRVTT_DIR:-}" ] || settings+=("data_loader.args.data_dir=$MSRVTT_DIR") ;;
esac
[ -z "${SAVE_DIR:-}" ] || settings+=("trainer.save_dir=$SAVE_DIR")
launch test.py -c configs/zero_msrvtt_4f_i21k_MILES.json --compare ${settings[@]+"${settings[@]}"}
