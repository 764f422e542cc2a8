"""Test: JSON + checkpoint -> embeddings -> ranks -> a table and results.json.

The results lie in the run's folder of the checkpoint, in test/<MMDD_HHMMSS>/, or for a checkpoint that belongs to no
run in save_dir/name/test/<MMDD_HHMMSS>/. Without -c the checkpoint's own config is taken.

    python test.py -c configs/zero_msrvtt_4f_i21k_MILES.json [-r CHECKPOINT] [key.path=value ...]
    torchrun --nproc_per_node=8 test.py -c ...
    python test.py --metrics-from FOLDER          numbers again from --save-embeddings, without the model
    python test.py -c CONFIG --print-config       the config as it is resolved, without testing
    python test.py --list                         every name that a config can use

Exit status: 0 done, 2 a mistake in what was given (one line says which).
"""

from parse_config import end_at_ctrl_c, let_threads_sleep

if __name__ == "__main__":
    end_at_ctrl_c()  # importing the rest takes seconds
    let_threads_sleep()


import argparse
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_loader import LOADERS
from data_loader.cpus import cpus_of_this_process
from model import ARCHS, load_model
from model.miles import MILES
from model.restore import build_from_checkpoint
from parse_config import (
    Config,
    ConfigError,
    UserError,
    cli_entry,
    command_line,
    merge,
    write_config,
)
from trainer import distributed
from trainer.config_check import check_clips
from trainer.evaluation.results import (
    describe_run,
    load_embeddings,
    new_folder,
    write_results,
)
from trainer.evaluation.table import table
from trainer.evaluator import (
    Embeddings,
    EvaluationSettings,
    embed,
    evaluation_loaders,
    evaluation_metrics,
    evaluation_settings,
    refuse_retrieval_rows,
    require_gallery_captions,
    score,
)
from trainer.log import console
from trainer.origin import (
    Origin,
    complete,
    contradictions,
    origin_of,
    read_origin,
    require_same_meaning,
)
from trainer.precision import Precision
from trainer.settings import trainer_settings
from trainer.threads import count_workers, limit_threads

# Intel's library then gives the same bits with any number of threads, so that 1, 2 and 3 processes agree on a CPU. It
# reads this at its first product.
os.environ.setdefault("MKL_CBWR", f"{torch.backends.cpu.get_cpu_capability()},STRICT")

log = logging.getLogger("test")


@dataclass
class Report:
    """Scores embeddings, prints the table and writes the results of each data set into one folder.

    `folder` is None until the first data set is written: the folder is named after the time, and lies in the run's
    folder (`run_folder`) of the checkpoint, or for other checkpoints in save_dir/name.
    """

    config: Config
    arguments: argparse.Namespace
    device: torch.device
    folder: Path | None = None
    run_folder: Path | None = None

    def add(
        self, embeddings: Embeddings, identity: dict[str, Any], subfolder: str = ""
    ) -> None:
        """Score one data set; process 0 writes it into `subfolder` of the folder."""
        settings = evaluation_settings(self.config)
        metrics = evaluation_metrics(self.config)
        results = score(
            embeddings,
            self.device,
            rows=settings.all_rows,
            metrics=metrics,
            resamples=settings.resamples,
        )
        if distributed.rank() != 0:
            return
        if self.folder is None:
            save_dir = Path(trainer_settings(self.config).save_dir)
            parent = self.run_folder or save_dir / self.config.require("name")
            self.folder = new_folder(parent / self.arguments.split)
        ranks_device = self.device if self.arguments.save_ranks else None
        path = write_results(
            self.folder / subfolder,
            embeddings,
            results,
            identity,
            self.arguments.save_embeddings,
            ranks_device,
        )
        print(table(results, metrics, self.arguments.compare))
        print(f"written: {path}")


def main(config: Config, arguments: argparse.Namespace) -> None:
    """Evaluate the model on each of the config's data sets, or score embeddings that were saved before."""
    device = distributed.start(arguments.device)
    try:
        console()
        evaluation_settings(config)
        evaluation_metrics(config)
        report = Report(config, arguments, device, output_folder(arguments))
        if arguments.metrics_from:
            evaluate_embeddings(report)
        else:
            evaluate_model(report)
    finally:
        distributed.stop()


def output_folder(arguments: argparse.Namespace) -> Path | None:
    """The folder of --output, which must hold no results yet."""
    if not arguments.output:
        return None
    folder = Path(arguments.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose a folder for --output")
    if distributed.rank() == 0 and (folder / "results.json").exists():
        raise UserError(
            f"{folder}/results.json: is there already and stays as it is; choose another folder"
        )
    return folder


def evaluate_embeddings(report: Report) -> None:
    """Score the embeddings of --metrics-from; what made them is taken over into the results."""
    folder = report.arguments.metrics_from
    embeddings, saved_identity = load_embeddings(folder)
    identity = describe_run(report.config, None, report.device)
    merged = {
        **identity,
        **saved_identity,
        "metrics_from": folder,
        "date": identity["date"],
    }
    report.add(embeddings, merged)


def evaluate_model(report: Report) -> None:
    """Embed and score every data set of the config."""
    config, arguments, device = report.config, report.arguments, report.device
    origin = origin_of(config)
    if origin is not None:
        config = complete(config, origin)
        report.run_folder = run_folder(origin)
    settings = evaluation_settings(config)
    blocks = evaluation_loaders(config, arguments.split)
    for block in blocks:
        require_gallery_captions(block)
    if arguments.split == "train":
        raise ConfigError(
            "--split: 'train' is given, and the training split is read at random frames, cropped at random; evaluate "
            "val or test"
        )
    changes = differences(config, blocks, origin)
    check_clips(config, blocks, LOADERS)
    model = build_model(config, arguments.pretrained_only).to(device)
    identity = describe_run(
        config, config["arch"]["args"].get("load_checkpoint"), device, model
    )
    identity["other_than_checkpoint"] = changes
    processes = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    for block in blocks:
        loader = LOADERS.build(block, **processes)
        limit_threads(cpus_of_this_process(), count_workers([loader]))
        if getattr(loader.dataset, "classes", ()):
            refuse_retrieval_rows(settings.all_rows)
        embeddings = embed(
            model,
            loader,
            device,
            stride=settings.stride,
            bank=query_bank(settings, block, processes),
            prompts=settings.prompts,
            progress=True,
            precision=Precision(settings.precision, device),
        )
        subfolder = ""
        if len(blocks) > 1:
            data_set = block["args"].get("dataset_name", block["type"])
            subfolder = f"{data_set}_{arguments.split}"
        report.add(embeddings, identity, subfolder)


def differences(
    config: Config, blocks: list[Config], origin: Origin | None
) -> list[str]:
    """What the evaluated model and its clips are other than the checkpoint says; each is logged.

    Raises ConfigError where the weights cannot mean it.
    """
    if origin is None:
        return []
    changes = contradictions(config, origin, blocks, LOADERS)
    require_same_meaning(changes, origin)
    for change in changes:
        log.warning("other than in %s: %s", origin.path, change)
    return changes


def run_folder(origin: Origin) -> Path | None:
    """The folder of the run that the checkpoint belongs to; None if it lies elsewhere."""
    folder = origin.path.parent
    return folder if (folder / "log.jsonl").is_file() else None


def build_model(config: Config, pretrained_only: bool) -> torch.nn.Module:
    """The architecture with the checkpoint's weights; without one only if that is what was asked for."""
    arch = config.require("arch")
    checkpoint = arch.require("args").get("load_checkpoint")
    if not checkpoint and not pretrained_only:
        raise ConfigError(
            "no checkpoint is given: add -r CHECKPOINT or arch.args.load_checkpoint=...; to examine the "
            "ImageNet and text weights alone, add --pretrained-only"
        )
    if checkpoint and pretrained_only:
        raise ConfigError(
            f"--pretrained-only: but the checkpoint {checkpoint} is given too; leave one out"
        )
    if checkpoint:
        return build_from_checkpoint(arch).eval()
    return ARCHS.build(arch).eval()


def query_bank(
    settings: EvaluationSettings, block: Config, processes: dict[str, int]
) -> list[str]:
    """Captions of the training split for QB-Norm, evenly over the split; none if no row wants them."""
    if "qbnorm" not in settings.row_names:
        return []
    changes = {
        "args": {
            "split": "train",
            "num_workers": 0,
            "check_files": False,
            "batch_size": 1,
        }
    }
    if block["args"]["split"] != "val":
        changes["args"]["holdout"] = (
            0  # held-out captions are test queries of val alone
        )
    training_block = Config(merge(block.to_dict(), changes), block.json_path)
    captions = LOADERS.build(training_block, **processes).dataset.captions
    step = 1
    if settings.bank:
        step = max(1, -(-len(captions) // settings.bank))
    return [captions[i] for i in range(0, len(captions), step)]


def load(path: str | Path, device: str | torch.device = "cpu") -> MILES:
    """`model.load_model`, on the CPU unless a device is given; the name that older code imports."""
    return load_model(path, device)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of test.py beside those of train.py."""
    parser.add_argument(
        "-s",
        "--sliding_window_stride",
        type=int,
        default=-1,  # as in Frozen-in-Time codebases: none
        metavar="STRIDE",
        help="add the row tta: windows of this stride averaged",
    )
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="default: <split>/<MMDD_HHMMSS> in the checkpoint's run folder, or in save_dir/name",
    )
    parser.add_argument(
        "--save-embeddings",
        action="store_true",
        help="embeddings.safetensors and ids.json",
    )
    parser.add_argument(
        "--save-ranks",
        action="store_true",
        help="ranks.jsonl: of each query its rank and top 10",
    )
    parser.add_argument(
        "--metrics-from",
        metavar="FOLDER",
        help="the folder that --save-embeddings wrote; no model",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="the paper's rows for the protocol, beside ours",
    )
    parser.add_argument(
        "--pretrained-only",
        action="store_true",
        help="evaluate a model without any checkpoint",
    )


def config_of_checkpoint(path: str) -> Mapping[str, Any]:
    """The config that a checkpoint, or the best one of a run's folder, was trained with."""
    return read_origin(path).config


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    argv = with_config_of_embeddings(list(sys.argv[1:] if argv is None else argv))
    arguments, config = command_line(__doc__, argv, add_options, config_of_checkpoint)
    changes: dict[str, Any] = {}
    if arguments.resume:
        changes["arch"] = {"args": {"load_checkpoint": arguments.resume}}
    if arguments.sliding_window_stride != -1:
        changes["evaluation"] = {"stride": arguments.sliding_window_stride}
    config = Config(merge(config.to_dict(), changes))
    if arguments.print_config:
        write_config(config)
        return
    main(config, arguments)


def with_config_of_embeddings(argv: list[str]) -> list[str]:
    """The arguments, with the config.json of --metrics-from where no config is given."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--metrics-from")
    parser.add_argument("-c", "--config")
    known, _ = parser.parse_known_args(argv)
    if known.metrics_from and not known.config:
        folder = Path(known.metrics_from)
        if not (folder / "config.json").is_file():
            within = folder / "embeddings"
            place = f": {within}" if within.is_dir() else ""
            raise UserError(
                f"{folder}: holds no config.json; give the folder embeddings that test.py --save-embeddings "
                f"wrote{place}"
            )
        return [*argv, "-c", str(folder / "config.json")]
    return argv


if __name__ == "__main__":
    cli()
