"""Plain English for the demo's clips, and which combinations belong to which split."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scripts.synthetic.shapes import ROUND, SceneObject, all_objects

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
SENTENCE_FORMS = ("{}", "{}", "in this clip {}", "we see how {}", "{} in the dark")
LINKS = ("{} while {}", "{} and {}", "{} as {}")
UNSEEN_SHARE = (
    1 / 3
)  # of the validation and test combinations, where a clip shows one object
ATTRIBUTES = ("colour", "shape", "motion")

Combination = tuple[SceneObject, ...]


def describe(objects: Combination, rng: np.random.Generator) -> str:
    """A sentence that says what the clip shows; its words and, of two objects, their order are drawn."""

    def draw(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    clauses = []
    for scene_object in objects:
        colour = draw(COLOUR_WORDS[scene_object.colour])
        shape = draw(SHAPE_WORDS[scene_object.shape])
        indefinite = "an" if colour[0] in "aeiou" else "a"
        article = draw(("the", indefinite))
        motion = draw(MOTION_WORDS[scene_object.motion])
        clauses.append(f"{article} {colour} {shape} {motion}")

    order = rng.permutation(len(clauses))
    sentence = clauses[0]
    if len(clauses) > 1:
        sentence = draw(LINKS).format(*(clauses[i] for i in order))
    return draw(SENTENCE_FORMS).format(sentence)


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


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
