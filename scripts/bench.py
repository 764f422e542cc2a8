"""Benches: python scripts/bench.py {step,eval,loader,search} [--help]

    step      a training step beside that of Frozen-in-Time codebases
    eval      ranking from embeddings beside a full-matrix sort and the bare product
    loader    clips per second on one core, by reader, codec and length, and with the cache of decoded clips
    search    milliseconds of a query over a million segments, also of the best segment of each video
Each prints a table and writes results/bench/<bench>_<date>.json with device, versions and git revision.
"""

import importlib
import sys

BENCHES = ("step", "eval", "loader", "search")


def main(argv: list[str]) -> None:
    """Hand the arguments to scripts/benchmarks/NAME.py."""
    if not argv or argv[0] not in BENCHES:
        sys.stdout.write(__doc__ + "\n")
        raise SystemExit(0 if argv[:1] in (["-h"], ["--help"]) else 2)
    importlib.import_module(f"scripts.benchmarks.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
