"""A run folder -> one HTML file: results beside the published ones, curves, queries with their best videos, figures.

    python scripts/report.py RUN_DIR [-o report.html] [--queries 200] [--figures 3]

RUN_DIR: of train.py, with evaluations in folders therein (test.py -o RUN_DIR/test --save-ranks --save-embeddings), or a
folder that test.py wrote. The file needs no network and no other file; what is missing in the folder is listed in the
page with the command that makes it. Default: RUN_DIR/report.html.
"""

from parse_config import end_at_ctrl_c

if __name__ == "__main__":
    end_at_ctrl_c()  # importing the rest takes seconds


import argparse
import logging
from pathlib import Path

from parse_config import UserError, cli_entry
from scripts.html_report.page import render_page
from scripts.html_report.run_folder import read_run
from trainer.files import atomic_write


def main(folder: Path, out: Path, num_queries: int = 200, num_figures: int = 3) -> Path:
    """Writes the report of `folder` to `out`, and prints what is missing for a complete one."""
    if out.is_dir():
        raise UserError(
            f"{out}: is a folder; give the file's name, as -o {out / 'report.html'}"
        )
    run = read_run(folder)
    page = render_page(run, num_queries, num_figures)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out, "wb") as file:
        file.write(page.encode("utf-8", "xmlcharrefreplace"))
    print(
        f"{out}: {out.stat().st_size / 2**20:.1f} MiB, {len(run.evaluations)} evaluations"
    )
    for description, command in run.missing:
        print(f"missing: {description}\n  {command}")
    return out


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: RUN_DIR/report.html"
    )
    parser.add_argument(
        "--queries",
        type=int,
        default=200,
        metavar="N",
        help="shown of each evaluation (default 200)",
    )
    parser.add_argument(
        "--figures",
        type=int,
        default=3,
        metavar="N",
        help="clips that are drawn (default 3, 0: none)",
    )
    args = parser.parse_args(argv)
    if args.queries < 1 or args.figures < 0:
        raise UserError(
            f"--queries {args.queries} --figures {args.figures}: at least 1 and 0 are needed"
        )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    output = args.output or args.folder / "report.html"
    main(args.folder, output, args.queries, args.figures)


if __name__ == "__main__":
    cli()
