"""Search videos by words, or by a video.

    python scripts/search.py INDEX "a dog catches a frisbee" [-k 10] [--best-of-each] [--json]
    python scripts/search.py INDEX --video FILE
    python scripts/search.py INDEX --serve [--port 8000]      a page for the browser, on this machine only

INDEX: a folder of scripts/index.py. The model is that of the checkpoint that made the features (-r says where it is
now, if it was moved). Scores are cosines. Needs faiss (pip install faiss-cpu).
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parse_config import ConfigError, cli_entry
from scripts.retrieval.query_encoder import Queries
from scripts.retrieval.search_index import SearchIndex, place


def main(given: argparse.Namespace):
    """Answer one query, or serve."""
    began = time.perf_counter()
    index = SearchIndex(given.index)
    queries = Queries(index.checkpoint(given.resume), given.device)
    loaded = time.perf_counter()
    if given.serve:
        from scripts.retrieval.server import serve

        serve(index, queries, given.port)
        return
    query_E = queries.video(given.video) if given.video else queries.text(given.text)
    encoded = time.perf_counter()
    hits = index.search(query_E, given.k, given.best_of_each)
    found = time.perf_counter()
    if given.json:
        print(json.dumps(hits, indent=1))
        return
    for number, hit in enumerate(hits, 1):
        print(f"{number:3d}  {hit['score']:7.4f}  {place(hit)}".encode(errors="replace").decode())
    print(
        f"model loaded in {loaded - began:.2f} s, query encoded in {1e3 * (encoded - loaded):.1f} ms, {len(index):,} "
        f"rows searched in {1e3 * (found - encoded):.1f} ms"
    )


@cli_entry
def cli(argv: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path, metavar="INDEX")
    parser.add_argument("text", nargs="?", help="what to look for")
    parser.add_argument("-k", type=int, default=10, help="answers (default: 10)")
    parser.add_argument(
        "--video", type=Path, metavar="FILE", help="look for what is like this video or picture"
    )
    parser.add_argument(
        "--best-of-each", action="store_true", help="of each video its best segment alone"
    )
    parser.add_argument(
        "-r", "--resume", metavar="CKPT", help="where the checkpoint is (default: as in the index)"
    )
    parser.add_argument("-d", "--device", default="cpu", help="of the model (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print the answers as JSON")
    parser.add_argument("--serve", action="store_true", help="a page at http://127.0.0.1:PORT/")
    parser.add_argument("--port", type=int, default=8000, help="of --serve (default: 8000; 0: any)")
    given = parser.parse_intermixed_args(argv)
    if sum((given.text is not None, given.video is not None, given.serve)) != 1:
        raise ConfigError("one thing is needed: a text in quotes, --video FILE or --serve")
    if given.text is not None and not given.text.strip():
        raise ConfigError("the text is empty; say what to look for")
    if given.k < 1:
        raise ConfigError(f"-k: {given.k} is given, 1 or more is needed")
    main(given)


if __name__ == "__main__":
    cli()
