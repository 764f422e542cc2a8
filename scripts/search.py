"""Search videos by words, or by a video.

    python scripts/search.py INDEX "a dog catches a frisbee" [-k 10] [--best-of-each] [--json]
    python scripts/search.py INDEX --video FILE
    python scripts/search.py INDEX --serve [--port 8000]      a page for the browser, on this machine only

INDEX: a folder of scripts/index.py. The model is that of the checkpoint that made the features (-r says where it is
now, if it was moved). Scores are cosines. Needs faiss (pip install faiss-cpu).
"""

import argparse
import json
import time
from pathlib import Path

from parse_config import ConfigError, cli_entry, printable
from scripts.retrieval.query_encoder import QueryEncoder
from scripts.retrieval.search_index import SearchIndex, describe


def main(args: argparse.Namespace) -> None:
    """Answer one query, or serve the page."""
    start_time = time.perf_counter()
    index = SearchIndex(args.index)
    query_encoder = QueryEncoder(index.checkpoint(args.resume), args.device)
    index.check_width(query_encoder.width)
    loaded_time = time.perf_counter()
    if args.serve:
        from scripts.retrieval.server import serve

        serve(index, query_encoder, args.port)
        return
    if args.video:
        query_E = query_encoder.encode_video(args.video)
    else:
        query_E = query_encoder.encode_text(args.text)
    encoded_time = time.perf_counter()
    hits = index.search(query_E, args.k, args.best_of_each)
    searched_time = time.perf_counter()
    if args.json:
        print(json.dumps(hits, indent=1))
        return
    for number, hit in enumerate(hits, 1):
        print(f"{number:3d}  {hit['score']:7.4f}  {printable(describe(hit))}")
    print(
        f"model loaded in {loaded_time - start_time:.2f} s, "
        f"query encoded in {1e3 * (encoded_time - loaded_time):.1f} ms, "
        f"{len(index):,} rows searched in {1e3 * (searched_time - encoded_time):.1f} ms"
    )


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path, metavar="INDEX")
    parser.add_argument("text", nargs="?", help="what to look for")
    parser.add_argument("-k", type=int, default=10, help="answers (default: 10)")
    parser.add_argument(
        "--video",
        type=Path,
        metavar="FILE",
        help="look for what is like this video or picture",
    )
    parser.add_argument(
        "--best-of-each",
        action="store_true",
        help="of each video its best segment alone",
    )
    parser.add_argument(
        "-r",
        "--resume",
        metavar="CKPT",
        help="where the checkpoint is (default: as in the index)",
    )
    parser.add_argument(
        "-d", "--device", default="cpu", help="of the model (default: cpu)"
    )
    parser.add_argument("--json", action="store_true", help="print the answers as JSON")
    parser.add_argument(
        "--serve", action="store_true", help="a page at http://127.0.0.1:PORT/"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="of --serve (default: 8000; 0: any)"
    )
    args = parser.parse_intermixed_args(argv)
    if sum((args.text is not None, args.video is not None, args.serve)) != 1:
        raise ConfigError(
            "one thing is needed: a text in quotes, --video FILE or --serve"
        )
    if args.text is not None and not args.text.strip():
        raise ConfigError("the text is empty; say what to look for")
    if args.k < 1:
        raise ConfigError(f"-k: {args.k} is given, 1 or more is needed")
    main(args)


if __name__ == "__main__":
    cli()
