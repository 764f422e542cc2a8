"""A run folder -> one HTML file: results beside the published ones, curves, queries with their best videos, figures.

    python scripts/report.py RUN_DIR [-o report.html] [--queries 200] [--figures 3]

RUN_DIR: of train.py, with exams in folders therein (test.py -o RUN_DIR/test --save-ranks --save-embeddings), or a
folder that test.py wrote. The file needs no network and nothing beside it; what is missing in the folder is said in
the page with the command that makes it. Default: RUN_DIR/report.html.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parse_config import UserError, cli_entry
from scripts.html_report.page import page
from scripts.html_report.run_folder import read


def main(folder: Path, out: Path, queries: int = 200, figures: int = 3) -> Path:
    """Write the report of `folder` to `out`."""
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the file's name, as -o {out / 'report.html'}")
    run = read(folder)
    made = page(run, queries, figures)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    part.write_bytes(made.encode("utf-8", "xmlcharrefreplace"))
    os.replace(part, out)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, {len(run.exams)} exams")
    for what, remedy in run.missing:
        print(f"missing: {what}\n  {remedy}")
    return out


@cli_entry
def cli(argv: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: RUN_DIR/report.html"
    )
    parser.add_argument(
        "--queries", type=int, default=200, metavar="N", help="shown of each exam (default 200)"
    )
    parser.add_argument(
        "--figures",
        type=int,
        default=3,
        metavar="N",
        help="clips that are drawn (default 3, 0: none)",
    )
    given = parser.parse_args(argv)
    if given.queries < 1 or given.figures < 0:
        raise UserError(
            f"--queries {given.queries} --figures {given.figures}: at least 1 and 0 are needed"
        )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main(given.folder, given.output or given.folder / "report.html", given.queries, given.figures)


if __name__ == "__main__":
    cli()
