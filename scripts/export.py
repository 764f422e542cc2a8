"""A checkpoint -> a model to use elsewhere, without optimizer and teacher.

    python scripts/export.py CKPT OUT                    a folder: model.safetensors, config.json, tokenizer,
                                                         preprocessing, model card; model.load_model(OUT) opens it
    python scripts/export.py CKPT OUT.pth --layout authors     one file that the authors' test_MILES.py reads

CKPT: of train.py, MILES, Frozen in Time or MCQ. OUT must not be there yet.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from model.restore import described, from_checkpoint
from model.weights import read_checkpoint
from parse_config import ConfigError, cli_entry, load_config
from trainer.evaluation.table import sha256


def main(
    source: Path, out: Path, layout: str, teacher: bool, config: Mapping[str, Any] | None = None
):
    """Write `out`; ConfigError if it is there, or if the checkpoint cannot be understood."""
    if out.exists():
        raise ConfigError(f"{out}: is there already; choose another name, or remove it")
    checkpoint = read_checkpoint(source)
    config = config or described(checkpoint)
    model = from_checkpoint(checkpoint, str(source), teacher=teacher, config=config)
    card_facts = facts(source, checkpoint, config, teacher)
    out.parent.mkdir(parents=True, exist_ok=True)
    if layout == "authors":
        torch.save(
            {
                "arch": "MILES",
                "epoch": checkpoint.get("epoch", 0),
                "state_dict": model.state_dict(),
                "optimizer": {},
                "monitor_best": checkpoint.get("monitor_best") or 0,
                "config": {"arch": {"type": "MILES", "args": model.settings}},
            },
            out,
        )
    else:
        model.save_pretrained(out, model_card_kwargs={"facts": card_facts})
    print(
        f"{out}: {'teacher' if teacher else 'model'} of {source}, {sum(p.numel() for p in model.parameters()):,} "
        f"parameters, without optimizer"
    )


def facts(
    source: Path, checkpoint: Mapping[str, Any], config: Mapping[str, Any], teacher: bool
) -> dict[str, str]:
    """Headings and texts for the model card: origin, and the results that lie beside the checkpoint."""
    lines = [
        f"- run: {config.get('name', 'unknown')}. {config.get('about', '')}".rstrip(),
        f"- checkpoint: `{source.name}`, epoch {checkpoint.get('epoch', 'unknown')}, step "
        f"{checkpoint.get('step', 'unknown')}{', weights of the snapshot teacher' if teacher else ''}",
        f"- SHA-256 of the checkpoint: `{digest(source)}`",
    ]
    found = {"Made from": "\n".join(lines)}
    results = source.parent / "results.json"
    if results.is_file():
        content = json.loads(results.read_text(encoding="utf-8"))
        rows = [
            f"| {way} | "
            + " | ".join(f"{content[way][key]:.1f}" for key in ("R1", "R5", "R10", "MedR"))
            + " |"
            for way in ("t2v", "v2t")
            if way in content
        ]
        where = f"{content.get('protocol') or 'No named protocol'}, {content.get('num_captions')} captions"
        found["Results"] = "\n".join(
            [
                f"{where}, {content.get('num_videos')} videos.",
                "",
                "| | R@1 | R@5 | R@10 | MedR |",
                "|---|---|---|---|---|",
                *rows,
            ]
        )
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, nothing."""
    if path.is_dir():
        return "a folder"
    return sha256(path)


@cli_entry
def cli(argv: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "-c", "--config", help="JSON whose arch describes the model, where the checkpoint does not"
    )
    parser.add_argument("--layout", choices=("folder", "authors"), default="folder")
    parser.add_argument("--teacher", action="store_true", help="the snapshot teacher's video tower")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = load_config(arguments.config) if arguments.config else None
    main(arguments.checkpoint, arguments.out, arguments.layout, arguments.teacher, config)


if __name__ == "__main__":
    cli()
