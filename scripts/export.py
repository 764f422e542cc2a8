"""A checkpoint -> a model to use elsewhere, without optimizer and teacher.

    python scripts/export.py CKPT OUT                    a folder: model.safetensors, config.json, tokenizer,
                                                         preprocessing, model card; model.load_model(OUT) opens it
    python scripts/export.py CKPT OUT.pth --layout authors     one file that the authors' test_MILES.py reads

CKPT: of train.py, MILES, Frozen in Time or MCQ. OUT must not be there yet.
"""

from parse_config import end_at_ctrl_c

if __name__ == "__main__":
    end_at_ctrl_c()  # importing the rest takes seconds


import argparse
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.miles import MILES
from model.restore import from_checkpoint, stored_config
from model.weights import read_checkpoint
from model.weights.listed import fingerprint
from model.weights.read import find
from parse_config import ConfigError, cli_entry, load_config, naming
from trainer.checkpoint import save_to
from trainer.files import atomic_write


def main(
    source: Path,
    out: Path,
    layout: str,
    teacher: bool,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write `out`; ConfigError if it is there, or if the checkpoint cannot be understood."""
    if out.exists():
        raise ConfigError(f"{out}: is there already; choose another name, or remove it")
    checkpoint = read_checkpoint(source)
    config = config or stored_config(checkpoint)
    model = from_checkpoint(checkpoint, str(source), teacher=teacher, config=config)
    card_facts = facts(source, checkpoint, config, teacher)
    out.parent.mkdir(parents=True, exist_ok=True)
    if layout == "authors":
        with atomic_write(out, "wb") as file:
            save_to(file, authors_checkpoint(model, checkpoint))
    else:
        save_whole(model, out, card_facts)
    exported = "teacher" if teacher else "model"
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {exported} of {source}, {count:,} parameters, without optimizer")


def save_whole(model: MILES, out: Path, card_facts: Mapping[str, str]) -> None:
    """Write the folder beside `out`, then rename it: what stands there is whole, also after a mistake or a kill."""
    unfinished = out.with_name(f".{out.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with naming(out):
            model.save_pretrained(unfinished, model_card_kwargs={"facts": card_facts})
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def authors_checkpoint(model: MILES, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What the authors' test_MILES.py reads."""
    return {
        "arch": "MILES",
        "epoch": checkpoint.get("epoch", 0),
        "state_dict": model.state_dict(),
        "optimizer": {},
        "monitor_best": checkpoint.get("monitor_best") or 0,
        "config": {"arch": {"type": "MILES", "args": model.settings}},
    }


def facts(
    source: Path,
    checkpoint: Mapping[str, Any],
    config: Mapping[str, Any],
    teacher: bool,
) -> dict[str, str]:
    """Headings and texts for the model card: origin, and the results that lie beside the checkpoint."""
    run = f"{config.get('name', 'unknown')}. {config.get('about', '')}".rstrip()
    epoch = checkpoint.get("epoch", "unknown")
    step = checkpoint.get("step", "unknown")
    teacher_note = ", weights of the snapshot teacher" if teacher else ""
    digest = fingerprint(find(source))
    origin = [
        f"- run: {run}",
        f"- checkpoint: `{source.name}`, epoch {epoch}, step {step}{teacher_note}",
        f"- SHA-256 of the checkpoint: `{digest}`",
    ]
    sections = {"Made from": "\n".join(origin)}
    results_path = source.parent / "results.json"
    if results_path.is_file():
        results = json.loads(results_path.read_text(encoding="utf-8"))
        sections["Results"] = results_table(results)
    return sections


def results_table(results: Mapping[str, Any]) -> str:
    """results.json as a Markdown table under a line with the protocol and the size of the gallery."""
    protocol = results.get("protocol") or "No named protocol"
    captions = results.get("num_captions")
    videos = results.get("num_videos")
    lines = [
        f"{protocol}, {captions} captions, {videos} videos.",
        "",
        "| | R@1 | R@5 | R@10 | MedR |",
        "|---|---|---|---|---|",
    ]
    for direction in ("t2v", "v2t"):
        if direction in results:
            metrics = results[direction]
            cells = [f"{metrics[name]:.1f}" for name in ("R1", "R5", "R10", "MedR")]
            lines.append(f"| {direction} | {' | '.join(cells)} |")
    return "\n".join(lines)


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "-c",
        "--config",
        help="JSON whose arch describes the model, where the checkpoint does not",
    )
    parser.add_argument("--layout", choices=("folder", "authors"), default="folder")
    parser.add_argument(
        "--teacher", action="store_true", help="the snapshot teacher's video encoder"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = load_config(arguments.config) if arguments.config else None
    main(
        arguments.checkpoint, arguments.out, arguments.layout, arguments.teacher, config
    )


if __name__ == "__main__":
    cli()
