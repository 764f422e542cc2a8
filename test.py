"""Test: JSON + checkpoint -> embeddings -> ranks -> a table and results.json in save_dir/name/<MMDD_HHMMSS>/.

    python test.py -c configs/zero_msrvtt_4f_i21k_MILES.json [-r CHECKPOINT] [key.path=value ...]
    torchrun --nproc_per_node=8 test.py -c ...
    python test.py --metrics-from FOLDER          numbers again from --save-embeddings, without the model

Exit status: 0 done, 2 a mistake in what was given (one line says which).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch

from data_loader import LOADERS
from model import ARCHS, load_model
from model.miles import MILES
from parse_config import Config, ConfigError, UserError, cli_entry, command_line, merge
from trainer import distributed
from trainer.evaluation import table
from trainer.evaluation.results import keep, load_embeddings, new_folder
from trainer.evaluator import Embeddings, EvaluationSettings, embed, evaluation_settings, score
from trainer.log import console
from trainer.precision import Precision
from trainer.settings import trainer_settings

# Intel's library then gives the same bits with any number of threads, so that 1, 2 and 3 processes agree on a CPU. It
# reads this at its first product.
os.environ.setdefault("MKL_CBWR", f"{torch.backends.cpu.get_cpu_capability()},STRICT")


def main(config: Config, given: argparse.Namespace):
    """Examine the model on each of the config's data sets."""
    device = distributed.start(given.device)
    try:
        console()
        chosen, folder = evaluation_settings(config), Path(given.output) if given.output else None
        if folder and distributed.rank() == 0 and (folder / "results.json").exists():
            raise UserError(
                f"{folder}/results.json: is there already and stays as it is; choose another folder"
            )
        if given.metrics_from:
            found, made_by = load_embeddings(given.metrics_from)
            here = table.identity(config, None, device)
            finish(
                config,
                given,
                folder,
                chosen,
                found,
                {**here, **made_by, "metrics_from": given.metrics_from, "date": here["date"]},
                device,
            )
            return
        model = build_model(config, given.pretrained_only).to(device)
        identity = table.identity(config, config["arch"]["args"].get("load_checkpoint"), device)
        blocks = loaders(config, given.split)
        for block in blocks:
            options = {"rank": distributed.rank(), "world_size": distributed.world_size()}
            found = embed(
                model,
                LOADERS.build(block, **options),
                device,
                stride=chosen.stride,
                bank=bank(chosen, block, options),
                prompts=chosen.prompts,
                progress=True,
                precision=Precision(chosen.precision, device),
            )
            name = (
                f"{block['args'].get('dataset_name', block['type'])}_{given.split}"
                if len(blocks) > 1
                else ""
            )
            folder = finish(config, given, folder, chosen, found, identity, device, name)
    finally:
        distributed.stop()


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
    return ARCHS.build(arch).eval()


def loaders(config: Config, split: str) -> list[Config]:
    """The loaders' blocks, of evaluation.data_loader or else data_loader, reading `split`."""
    blocks = (config.get("evaluation") or Config({})).blocks("data_loader") or config.blocks(
        "data_loader"
    )
    if not blocks:
        raise ConfigError("data_loader: is missing; it says which data set is examined")
    return [
        Config(
            merge(block.to_dict(), {"args": {"split": split, "shuffle": False}}), block.json_path
        )
        for block in blocks
    ]


def bank(chosen: EvaluationSettings, block: Config, options: dict[str, Any]) -> list[str]:
    """Captions of the training split, if a row wants them; evaluation.bank at most, evenly over the split."""
    if "qbnorm" not in chosen.row_names:
        return []
    over = {"args": {"split": "train", "num_workers": 0, "check_files": False, "batch_size": 1}}
    captions = LOADERS.build(
        Config(merge(block.to_dict(), over), block.json_path), **options
    ).dataset.captions
    step = max(1, -(-len(captions) // chosen.bank)) if chosen.bank else 1
    return [captions[i] for i in range(0, len(captions), step)]


def finish(
    config: Config,
    given: argparse.Namespace,
    folder: Path | None,
    chosen: EvaluationSettings,
    found: Embeddings,
    identity: dict[str, Any],
    device: torch.device,
    name: str = "",
) -> Path | None:
    """Score, print, write; -> the run's folder."""
    metrics = tuple(config.get("metrics") or ("t2v_metrics", "v2t_metrics"))
    results = score(
        found, device, rows=chosen.all_rows, metrics=metrics, resamples=chosen.resamples
    )
    if distributed.rank():
        return folder
    folder = folder or new_folder(Path(trainer_settings(config).save_dir) / config.require("name"))
    written = keep(
        folder / name,
        found,
        results,
        identity,
        given.save_embeddings,
        device if given.save_ranks else None,
    )
    print(table.table(results, metrics, given.compare), f"written: {written}", sep="\n")
    return folder


def load(path: str | Path, device: str | torch.device = "cpu") -> MILES:
    """The same as `model.load_model`, on the CPU unless a device is given."""
    return load_model(path, device)


def options(parser: argparse.ArgumentParser):
    """What test.py takes beside what train.py takes."""
    parser.add_argument(
        "-s",
        "--sliding_window_stride",
        type=int,
        default=-1,
        metavar="STRIDE",
        help="add the row tta: windows of this stride averaged",
    )
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", help="default: save_dir/name/<MMDD_HHMMSS>"
    )
    parser.add_argument(
        "--save-embeddings", action="store_true", help="embeddings.safetensors and ids.json"
    )
    parser.add_argument(
        "--save-ranks", action="store_true", help="ranks.jsonl: of each query its rank and top 10"
    )
    parser.add_argument(
        "--metrics-from", metavar="FOLDER", help="the folder that --save-embeddings wrote; no model"
    )
    parser.add_argument(
        "--compare", action="store_true", help="the paper's rows for the protocol, beside ours"
    )
    parser.add_argument(
        "--pretrained-only", action="store_true", help="examine a model without any checkpoint"
    )


@cli_entry
def cli(argv: list[str] | None = None):
    """The command line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--metrics-from")
    early.add_argument("-c", "--config")
    known = early.parse_known_args(argv)[0]
    if known.metrics_from and not known.config:
        argv += ["-c", str(Path(known.metrics_from) / "config.json")]
    given, config = command_line(__doc__, argv, options)
    over: dict[str, Any] = (
        {"arch": {"args": {"load_checkpoint": given.resume}}} if given.resume else {}
    )
    over |= (
        {"evaluation": {"stride": given.sliding_window_stride}}
        if given.sliding_window_stride > 0
        else {}
    )
    main(Config(merge(config.to_dict(), over)), given)


if __name__ == "__main__":
    cli()
