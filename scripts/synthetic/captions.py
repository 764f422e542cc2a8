"""Plain English for the demo's clips, and which combinations belong to which split."""

from collections.abc import Sequence

import numpy as np

from scripts.synthetic.shapes import ROUND, Thing, all_things

SHAPE_WORDS = {
    "ring": ("ring", "hoop"), "square": ("square", "box"), "bar": ("bar", "plank"),
    "triangle": ("triangle", "wedge"), "cross": ("cross", "plus sign"),
}  # fmt: skip
COLOUR_WORDS = {
    "red": ("red", "crimson"), "green": ("green",), "blue": ("blue", "navy"), "yellow": ("yellow",),
    "purple": ("purple", "violet"), "orange": ("orange",), "cyan": ("cyan", "turquoise"), "white": ("white", "snowy"),
    "pink": ("pink", "rosy"), "grey": ("grey", "ashen"),
}  # fmt: skip
MOTION_WORDS = {
    "left": ("moves to the left", "slides left", "drifts leftwards"),
    "right": ("moves to the right", "slides right", "drifts rightwards"),
    "up": ("moves up", "rises to the top", "climbs upwards"),
    "down": ("moves down", "falls to the bottom", "sinks downwards"),
    "grow": ("grows", "becomes larger", "gets bigger and bigger"),
    "shrink": ("shrinks", "becomes smaller", "gets smaller and smaller"),
    "turn": ("turns around", "spins", "rotates in place"),
    "blink": ("blinks", "flashes on and off", "comes and goes"),
}
FRAMES_OF_SPEECH = ("{}", "{}", "in this clip {}", "we see how {}", "{} in the dark")
LINKS = ("{} while {}", "{} and {}", "{} as {}")
UNSEEN = 1 / 3

Combination = tuple[Thing, ...]


def describe(things: Combination, rng: np.random.Generator) -> str:
    """Say in one sentence what the clip shows; words and, for two objects, their order are drawn."""

    def word(choices: Sequence[str]) -> str:
        return choices[rng.integers(len(choices))]

    clauses = []
    for thing in things:
        colour, shape = word(COLOUR_WORDS[thing.colour]), word(SHAPE_WORDS[thing.shape])
        article = word(("the", "an" if colour[0] in "aeiou" else "a"))
        clauses.append(f"{article} {colour} {shape} {word(MOTION_WORDS[thing.motion])}")
    order = rng.permutation(len(clauses))
    sentence = clauses[0] if len(clauses) == 1 else word(LINKS).format(*(clauses[i] for i in order))
    return word(FRAMES_OF_SPEECH).format(sentence)


def deal_one(counts: dict[str, int], rng: np.random.Generator) -> dict[str, list[Combination]]:
    """One object a clip. Of the gallery and of val, a third are combinations that no training clip shows."""
    single = all_things()
    deck = [(single[i],) for i in rng.permutation(len(single))]
    dealt = {}
    for split in ("test", "val"):
        unseen = round(counts[split] * UNSEEN)
        dealt[split], deck = deck[:unseen], deck[unseen:]
    for split in ("test", "val"):
        seen = counts[split] - len(dealt[split])
        if seen > len(deck):
            raise ValueError(
                f"--{split} {counts[split]}: one object gives only {len(single)} combinations"
            )
        dealt[split] = dealt[split] + deck[:seen]
    dealt["train"] = [deck[i % len(deck)] for i in range(counts["train"])]
    return dealt


def swapped(first: Thing, second: Thing, how: int) -> Combination:
    """The hard negative: the two objects with their colours (0), shapes (1) or motions (2) exchanged."""
    a, b = [[t.colour, t.shape, t.motion] for t in (first, second)]
    a[how], b[how] = b[how], a[how]
    return Thing(*a), Thing(*b)


def visible(things: Combination) -> bool:
    """Two objects that differ in each attribute, no round one turning: then every swap means something else."""
    first, second = things
    differ = all(
        getattr(first, name) != getattr(second, name) for name in ("colour", "shape", "motion")
    )
    return differ and not any(thing.motion == "turn" and thing.shape in ROUND for thing in things)


def deal_two(counts: dict[str, int], rng: np.random.Generator) -> dict[str, list[Combination]]:
    """Two objects a clip. Val and gallery come as pairs that differ by one swap; no pair of objects occurs twice."""
    single, taken, dealt = all_things(), set(), {}
    for split in ("test", "val", "train"):
        dealt[split] = []
        while len(dealt[split]) < counts[split]:
            things = tuple(single[i] for i in rng.choice(len(single), 2, replace=False))
            group = (
                [things]
                if split == "train"
                else [things, swapped(*things, how=int(rng.integers(3)))]
            )
            if all(visible(pair) and frozenset(pair) not in taken for pair in group):
                dealt[split] += group
                taken.update(frozenset(pair) for pair in group)
        dealt[split] = dealt[split][: counts[split]]
    return dealt
