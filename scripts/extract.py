"""Features of videos, pictures or texts, for search or for anything else.

    python scripts/extract.py -r CKPT FOLDER OUT [--segments 8]        every video and picture under a folder
    python scripts/extract.py -r CKPT CONFIG.json OUT [--split test]   a data set, or with --texts its captions
    python scripts/extract.py -r CKPT captions.txt OUT --texts         one text per line; or "text" of a .jsonl's rows
    torchrun --nproc_per_node=8 scripts/extract.py ...                 any number of processes

OUT gets shards of features (as encode_video and encode_text give them, not normalized), ids.jsonl, bad_files.jsonl,
manifest.json; see scripts/retrieval/features.py.
However a run ends, the same command resumes it; once it is whole, the same command takes what is new or changed in the
source, and drops what is gone. Another checkpoint or other options are refused. --segments divides
videos into segments of that many seconds, each a row; a remainder of no more than a quarter of that joins the segment
before. Files that cannot be read are listed and counted, and do not change the exit status.
"""

from parse_config import cli_entry
from scripts.retrieval.stopping import one_line_on_ctrl_c


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    with one_line_on_ctrl_c("the same command goes on from there"):
        # Takes seconds, in which Ctrl-C may come too.
        from scripts.retrieval.extraction import extract, parse_arguments

        extract(parse_arguments(argv, __doc__))


if __name__ == "__main__":
    cli()
