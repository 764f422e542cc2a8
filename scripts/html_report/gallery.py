"""ranks.jsonl -> the gallery: which queries are shown, their best answers, each thumbnail once."""

from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from scripts.html_report.run_folder import Exam
from scripts.html_report.thumbnails import Clips, some

TOP = 5


def chosen(ranks: list[Mapping[str, Any]], limit: int) -> list[int]:
    """Places of the queries that are shown, in the list's order: all, or half hits (rank 1) evenly over the list and
    half the worst misses; where there are fewer of one kind, more of the other."""
    hits = [place for place, row in enumerate(ranks) if row["rank"] <= 1]
    misses = [place for place, row in enumerate(ranks) if row["rank"] > 1]
    misses.sort(key=lambda place: -ranks[place]["rank"])
    worst = min(len(misses), max(limit // 2, limit - len(hits)))
    return sorted([*misses[:worst], *some(hits, limit - worst)])


def gallery(exam: Exam, limit: int, clips: Clips) -> dict[str, Any]:
    """The page's data: {"items": thumbnails or texts, "queries": [{"text" or "item", "right", "rank", "top"}], and what
    is said of them}. Queries are captions; for recognition videos, whose answers are classes."""
    ranks = [row for row in exam.ranks if row["direction"] == "t2v"]
    of_videos = not ranks
    ranks = ranks or exam.ranks
    places = chosen(ranks, limit)
    items: list[dict[str, Any]] = []
    videos, texts = Items(items), Items(items)
    asked, answers = (videos, texts) if of_videos else (texts, videos)
    queries = [query(ranks[place], place, of_videos, asked, answers) for place in places]
    for name, number in tqdm(videos.numbers.items(), desc="thumbnails", unit="clip", leave=False):
        items[number] = clips.thumbnail(name)
    hits = sum(row["rank"] <= 1 for row in ranks)
    shown = sum(ranks[place]["rank"] <= 1 for place in places)
    return {
        "items": items,
        "queries": queries,
        "hits": hits,
        "misses": len(ranks) - hits,
        "shown_hits": shown,
        "shown_misses": len(places) - shown,
        "videos": len(videos.numbers),
        "of_videos": of_videos,
    }


class Items:
    """Names -> numbers in the page's list, each once."""

    def __init__(self, items: list[dict[str, Any]]):
        self.items, self.numbers = items, {}

    def __call__(self, name: str) -> int:
        if name not in self.numbers:
            self.numbers[name] = len(self.items)
            self.items.append({"name": name})
        return self.numbers[name]


def query(
    row: Mapping[str, Any], place: int, of_videos: bool, asked: Items, answer: Items
) -> dict[str, Any]:
    """One query: its best five, and the right answers (of several the best ranked, or the first)."""
    right = row["right"] if isinstance(row["right"], list) else [row["right"]]
    ranked = [name for name, _ in row["top"] if name in right]
    best = row["top"][:TOP]
    return {
        "text": row["query"],
        "item": asked(row["query"]) if of_videos else None,
        "place": place,
        "rank": row["rank"],
        "right": answer(ranked[0] if ranked else right[0]),
        "also": [answer(name) for name in right if name in dict(map(tuple, best))],
        "top": [[answer(name), value] for name, value in best],
    }


def said(data: Mapping[str, Any], clips: Clips) -> list[str]:
    """What stands above the gallery: how many of how many, and what could not be shown."""
    total, shown = data["hits"] + data["misses"], len(data["queries"])
    kind = "videos" if data["of_videos"] else "captions"
    lines = [
        f"{shown} of {total} {kind} are shown: {data['shown_hits']} of {data['hits']} hits (rank 1"
        + (", evenly over the list)" if data["shown_hits"] < data["hits"] else ")")
        + f" and {data['shown_misses']} of {data['misses']} misses"
        + (", the worst." if data["shown_misses"] < data["misses"] else ".")
    ]
    if clips.gone:
        first, why = next(iter(clips.gone.items()))
        lines.append(
            f"{len(clips.gone)} of {data['videos']} clips could not be read and are shown by their id, the "
            f"first: {first}: {clips.why or why}"
        )
    return lines
