"""Plain English for the demo's clips, and which combinations belong to which split."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from scripts.synthetic.shapes import ROUND, Group, SceneObject, all_objects

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
PLURAL_MOTION_WORDS = {
    "left": ("move to the left", "slide left", "drift leftwards"),
    "right": ("move to the right", "slide right", "drift rightwards"),
    "up": ("move up", "rise to the top", "climb upwards"),
    "down": ("move down", "fall to the bottom", "sink downwards"),
    "grow": ("grow", "become larger", "get bigger and bigger"),
    "shrink": ("shrink", "become smaller", "get smaller and smaller"),
    "turn": ("turn around", "spin", "rotate in place"),
    "blink": ("blink", "flash on and off", "come and go"),
}
NUMBER_WORDS = {2: "two", 3: "three"}
SENTENCE_FORMS = ("{}", "{}", "in this clip {}", "we see how {}", "{} in the dark")
LINKS = ("{} while {}", "{} and {}", "{} as {}")
CLAUSE_FORMS = ("{}", "{}", "in this clip {}", "we see how {}")
PHRASE_FORMS = ("{}", "{}", "a video of {}", "close-up of {}")
PHRASE_LINKS = ("{} and {}", "{} with {}")
SHARE_OF_ALL = 1 / 4  # of the captions of `tell_some`
# How much a caption says of a clip of groups, and how often.
DETAILS = {"phrase": 0.3, "phrases": 0.15, "clause": 0.3, "clauses": 0.25}
LARGEST_COUNT = 3  # copies in a group
UNSEEN_SHARE = (
    1 / 3
)  # of the validation and test combinations, where a clip shows one object
ATTRIBUTES = ("colour", "shape", "motion")

Combination = tuple[SceneObject, ...]


class Caption(NamedTuple):
    """A caption, and for each object of the clip the noun phrase that stands in it; None if it is not mentioned."""

    text: str
    phrases: tuple[str | None, ...]

    @property
    def told(self) -> list[int]:
        """Which objects it mentions."""
        return [i for i, phrase in enumerate(self.phrases) if phrase is not None]


class Words(NamedTuple):
    """What one object is called: "crimson hoop", "the crimson hoop" and "moves up"."""

    phrase: str
    subject: str
    predicate: str


def _draw(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def tell_all(objects: Combination, rng: np.random.Generator) -> Caption:
    """A sentence that says what the clip shows; its words and, of two objects, their order are drawn."""
    words = [_words(scene_object, rng) for scene_object in objects]
    clauses = [f"{subject} {predicate}" for _, subject, predicate in words]
    sentence = _join(clauses, LINKS, rng)
    text = _draw(SENTENCE_FORMS, rng).format(sentence)
    return Caption(text, tuple(phrase for phrase, _, _ in words))


def tell_some(objects: Combination, rng: np.random.Generator) -> Caption:
    """As `tell_all`, but three times out of four of one of the objects only."""
    if rng.random() < SHARE_OF_ALL:
        return tell_all(objects, rng)
    index = int(rng.integers(len(objects)))
    text, (phrase,) = tell_all((objects[index],), rng)
    return Caption(text, _only(index, phrase, len(objects)))


def tell_groups(
    groups: Combination, rng: np.random.Generator, detail: str = "clauses"
) -> Caption:
    """A caption of groups: "red rings move up while a blue bar spins".

    Args:
        groups: What the clip shows.
        rng: Draws the words.
        detail: One of DETAILS: of one group or of all, with or without what they do.
    """
    words = [_words(group, rng) for group in groups]
    phrases: tuple[str | None, ...] = tuple(phrase for phrase, _, _ in words)
    if detail in ("phrase", "clause"):
        index = int(rng.integers(len(words)))
        words = [words[index]]
        phrases = _only(index, words[0].phrase, len(groups))

    if detail in ("clause", "clauses"):
        clauses = [f"{subject} {predicate}" for _, subject, predicate in words]
        text = _draw(CLAUSE_FORMS, rng).format(_join(clauses, LINKS, rng))
    else:
        subjects = [subject for _, subject, _ in words]
        text = _draw(PHRASE_FORMS, rng).format(_join(subjects, PHRASE_LINKS, rng))
    return Caption(text, phrases)


def tell_groups_in_some_detail(
    groups: Combination, rng: np.random.Generator
) -> Caption:
    """As `tell_groups`, with a detail drawn as DETAILS says."""
    detail = rng.choice(list(DETAILS), p=list(DETAILS.values()))
    return tell_groups(groups, rng, str(detail))


def describe(objects: Combination, rng: np.random.Generator) -> str:
    """The text of `tell_all`."""
    return tell_all(objects, rng).text


def _only(index: int, phrase: str | None, length: int) -> tuple[str | None, ...]:
    return tuple(phrase if i == index else None for i in range(length))


def _words(scene_object: SceneObject, rng: np.random.Generator) -> Words:
    """Draw the words for an object, or for a group the plural ones where it has several copies."""
    colour = _draw(COLOUR_WORDS[scene_object.colour], rng)
    shape = _draw(SHAPE_WORDS[scene_object.shape], rng)
    count = count_of(scene_object)
    if count == 1:
        indefinite = "an" if colour[0] in "aeiou" else "a"
        phrase = f"{colour} {shape}"
        subject = f"{_draw(('the', indefinite), rng)} {phrase}"
        predicate = _draw(MOTION_WORDS[scene_object.motion], rng)
    else:
        phrase = f"{colour} {_plural(shape)}"
        determiner = _draw(("", "the ", "some ", f"{NUMBER_WORDS[count]} "), rng)
        subject = f"{determiner}{phrase}"
        predicate = _draw(PLURAL_MOTION_WORDS[scene_object.motion], rng)
    return Words(phrase, subject, predicate)


def count_of(scene_object: SceneObject) -> int:
    """How many copies of the object the clip shows."""
    return scene_object.count if isinstance(scene_object, Group) else 1


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("x", "ss")) else "s")


def _join(parts: Sequence[str], links: Sequence[str], rng: np.random.Generator) -> str:
    """One part as it is, two in a drawn order with a drawn link."""
    order = rng.permutation(len(parts))
    if len(parts) == 1:
        return parts[0]
    return _draw(links, rng).format(*(parts[i] for i in order))


def split_single_objects(
    counts: dict[str, int], rng: np.random.Generator
) -> dict[str, list[Combination]]:
    """Combinations of one object for each split. A third of those of test and val are shown in no training clip.

    `counts`: clips of the splits "train", "val" and "test". Raises ValueError if there are not enough combinations.
    """
    objects = all_objects()
    unused: list[Combination] = [(objects[i],) for i in rng.permutation(len(objects))]
    combinations: dict[str, list[Combination]] = {}
    for split in ("test", "val"):
        num_unseen = round(counts[split] * UNSEEN_SHARE)
        combinations[split] = unused[:num_unseen]
        unused = unused[num_unseen:]

    for split in ("test", "val"):
        num_seen = counts[split] - len(combinations[split])
        if num_seen > len(unused):
            raise ValueError(
                f"--{split} {counts[split]}: one object gives only {len(objects)} combinations"
            )
        combinations[split] = combinations[split] + unused[:num_seen]

    combinations["train"] = [unused[i % len(unused)] for i in range(counts["train"])]
    return combinations


def swap_attribute(
    first: SceneObject, second: SceneObject, attribute: str
) -> Combination:
    """The hard negative: the two objects with their colours, shapes or motions exchanged."""
    first_value = getattr(first, attribute)
    second_value = getattr(second, attribute)
    return (
        replace(first, **{attribute: second_value}),
        replace(second, **{attribute: first_value}),
    )


def has_visible_swaps(objects: Combination) -> bool:
    """Whether two objects differ in each attribute and no round one turns: then every swap can be seen."""
    first, second = objects
    if any(getattr(first, name) == getattr(second, name) for name in ATTRIBUTES):
        return False
    return not any(
        scene_object.motion == "turn" and scene_object.shape in ROUND
        for scene_object in objects
    )


def split_object_pairs(
    counts: dict[str, int], rng: np.random.Generator
) -> dict[str, list[Combination]]:
    """Combinations of two objects for each split; no pair of objects occurs twice.

    Those of val and test come two by two and differ by one swapped attribute.
    """
    objects = all_objects()
    used: set[frozenset[SceneObject]] = set()
    combinations: dict[str, list[Combination]] = {}
    for split in ("test", "val", "train"):
        combinations[split] = []
        while len(combinations[split]) < counts[split]:
            first, second = (
                objects[i] for i in rng.choice(len(objects), 2, replace=False)
            )
            group: list[Combination] = [(first, second)]
            if split != "train":
                attribute = ATTRIBUTES[int(rng.integers(len(ATTRIBUTES)))]
                group.append(swap_attribute(first, second, attribute))
            if all(
                has_visible_swaps(pair) and frozenset(pair) not in used
                for pair in group
            ):
                combinations[split] += group
                used.update(frozenset(pair) for pair in group)
        combinations[split] = combinations[split][: counts[split]]
    return combinations


def with_counts(
    combinations: Sequence[Combination], rng: np.random.Generator, in_pairs: bool
) -> list[Combination]:
    """Make each object a group of one to LARGEST_COUNT copies; `in_pairs`: hard negatives get the same counts."""
    count_CN = rng.integers(1, LARGEST_COUNT + 1, (len(combinations), 2))
    if in_pairs:
        count_CN[1::2] = count_CN[: len(count_CN) // 2 * 2 : 2]
    return [
        tuple(
            Group(scene_object.colour, scene_object.shape, scene_object.motion, count)
            for scene_object, count in zip(objects, counts.tolist(), strict=True)
        )
        for objects, counts in zip(combinations, count_CN, strict=True)
    ]


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
