"""What annotations hold and a data set does not use: counted by reason."""

from collections import Counter
from collections.abc import Mapping

MAX_REASONS = 8  # in a message


class LeftOut:
    """Counts by reason, which is worded to follow a number ("blank captions").

    first: of a reason, where it first occurred ("line 7"), if that was said.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str, count: int = 1, where: str = "") -> None:
        """Count `count` more; `where` is kept if it is the first of the reason."""
        if not count:
            return
        if where and reason not in self._counts:
            self.first[reason] = where
        self._counts[reason] += count

    def counts(self) -> dict[str, int]:
        """{"blank captions (the first: line 7)": 12, ...}"""
        counts = {}
        for reason, count in self._counts.items():
            if reason in self.first:
                reason += f" (the first: {self.first[reason]})"
            counts[reason] = count
        return counts


def left_out_text(counts: Mapping[str, int]) -> str:
    """ "left out: 3 blank captions, ...", the most frequent first; "nothing left out"."""
    if not counts:
        return "nothing left out"
    reasons = Counter(counts).most_common()
    texts = [f"{count} {reason}" for reason, count in reasons[:MAX_REASONS]]
    rest = sum(count for _, count in reasons[MAX_REASONS:])
    if rest:
        texts.append(f"{rest} for other reasons")
    return f"left out: {', '.join(texts)}"
