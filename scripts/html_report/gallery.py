"""ranks.jsonl -> the gallery: which queries are shown, their best answers, each thumbnail once."""

from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from scripts.html_report.run_folder import Evaluation
from scripts.html_report.thumbnails import Clips, evenly_spaced

NUM_ANSWERS = 5  # shown per query


def choose_queries(ranks: Sequence[Mapping[str, Any]], limit: int) -> list[int]:
    """Indices of the queries that are shown, ascending: all, or half hits (rank 1) and half misses.

    The hits are taken evenly over the list, the misses are the worst; where there are fewer of one sort, more of the
    other are shown.

    Args:
        ranks: lines of ranks.jsonl, of which "rank" is used
        limit: at most so many are shown
    """

    def rank(index: int) -> float:
        return ranks[index]["rank"]

    hits = [index for index in range(len(ranks)) if rank(index) <= 1]
    misses = [index for index in range(len(ranks)) if rank(index) > 1]
    misses.sort(key=rank, reverse=True)

    num_misses = min(len(misses), max(limit // 2, limit - len(hits)))
    return sorted(misses[:num_misses] + evenly_spaced(hits, limit - num_misses))


def gallery_data(evaluation: Evaluation, limit: int, clips: Clips) -> dict[str, Any]:
    """What the page's script draws: the items (thumbnails or texts), and the queries that refer to them by number.

    Queries are captions; for recognition they are videos, whose answers are classes.
    -> {"items", "queries" (see `query_data`), "hits", "misses", "shown_hits", "shown_misses", "videos", "of_videos"}
    """
    all_ranks = evaluation.ranks or []
    ranks = [row for row in all_ranks if row["direction"] == "t2v"]
    of_videos = not ranks
    if of_videos:
        ranks = all_ranks

    indices = choose_queries(ranks, limit)
    items: list[dict[str, Any]] = []
    videos = ItemNumbers(items)
    if of_videos:
        classes = ItemNumbers(items)
        queries = [
            query_data(ranks[index], index, classes, videos) for index in indices
        ]
    else:
        queries = [query_data(ranks[index], index, videos) for index in indices]

    progress = tqdm(videos.numbers.items(), desc="thumbnails", unit="clip", leave=False)
    for name, number in progress:
        items[number] = clips.thumbnail(name)

    hits = sum(row["rank"] <= 1 for row in ranks)
    shown_hits = sum(ranks[index]["rank"] <= 1 for index in indices)
    return {
        "items": items,
        "queries": queries,
        "hits": hits,
        "misses": len(ranks) - hits,
        "shown_hits": shown_hits,
        "shown_misses": len(indices) - shown_hits,
        "videos": len(videos.numbers),
        "of_videos": of_videos,
    }


class ItemNumbers:
    """Appends names of one sort (videos or classes) to the page's list of items, each name once.

    Args:
        items: the list, which several sorts share
    """

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items
        self.numbers: dict[str, int] = {}  # name -> index in `items`

    def number(self, name: str) -> int:
        """The item's index in the list, where it is appended if it is new."""
        if name not in self.numbers:
            self.numbers[name] = len(self.items)
            self.items.append({"name": name})
        return self.numbers[name]


def query_data(
    row: Mapping[str, Any],
    index: int,
    answers: ItemNumbers,
    query_items: ItemNumbers | None = None,
) -> dict[str, Any]:
    """A query with its best answers.

    "right": the right answer, of several the best ranked one or else the first; "also": right answers among the best;
    "top": [(answer, similarity)]; "item": the query itself, if it is no caption. All of them are numbers of items.
    """
    right_names = row["right"] if isinstance(row["right"], list) else [row["right"]]
    ranked_right_names = [name for name, _ in row["top"] if name in right_names]
    best = row["top"][:NUM_ANSWERS]
    best_names = {name for name, _ in best}

    return {
        "text": row["query"],
        "item": None if query_items is None else query_items.number(row["query"]),
        "index": index,
        "rank": row["rank"],
        "right": answers.number((ranked_right_names or right_names)[0]),
        "also": [answers.number(name) for name in right_names if name in best_names],
        "top": [[answers.number(name), similarity] for name, similarity in best],
    }


def gallery_notes(data: Mapping[str, Any], clips: Clips) -> list[str]:
    """The lines above the gallery: how many queries of how many are shown, and which clips could not be read."""
    total = data["hits"] + data["misses"]
    queries = "captions"
    if data["of_videos"]:
        queries = "videos"

    line = f"{len(data['queries'])} of {total} {queries} are shown: "
    line += f"{data['shown_hits']} of {data['hits']} hits (rank 1"
    if data["shown_hits"] < data["hits"]:
        line += ", evenly over the list"
    line += f") and {data['shown_misses']} of {data['misses']} misses"
    if data["shown_misses"] < data["misses"]:
        line += ", the worst"
    lines = [line + "."]

    if clips.unreadable:
        name, reason = next(iter(clips.unreadable.items()))
        lines.append(
            f"{len(clips.unreadable)} of {data['videos']} clips could not be read and are shown by their id, the "
            f"first: {name}: {clips.open_error or reason}"
        )
    return lines


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/report.py --help")
