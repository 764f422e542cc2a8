"""Figures of scripts/visualize.py for a few clips of an exam, as pictures that stand in the page itself."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from data_loader.reader import BrokenVideo
from model import load_model
from model.miles import MILES
from model.text.word_features import encode_words
from parse_config import UserError
from scripts.html_report.run_folder import Exam, Run
from scripts.html_report.tables import text
from scripts.html_report.thumbnails import Clips, data_uri, some
from scripts.visualize import alignment_figure, attention_figure, masking_figure

log = logging.getLogger(__name__)
WORDS = 4  # of a caption, in the alignment's figure
PLAIN = (
    "a an and are as at be by clip each for from has have her his how in into is it its of on or our out s see "
    "that the their then there these they this to up very video was we were while who with"
)  # mean little alone
QUALITY = 88
ABOUT = {
    "attention": "Where CLS looks: self-attention of CLS in the last block, mean over the heads, over each frame.",
    "alignment": "Where a word is: the cosine of its feature with every patch feature, less the mean over the "
    "caption's words.",
    "masking": "Masked visual modeling: the clip, what the model sees of it, and the error of each hidden place.",
}
Subject = tuple[str, str]  # path of a clip, its caption


def figures(run: Run, clips: Sequence[Clips], count: int, device: str = "cpu") -> str:
    """<figure>s of `count` clips of the first exam that has them, or the reason why there are none."""
    if not count:
        return note("Left out by --figures 0.")
    if run.checkpoint is None:
        return note("No checkpoint was found.")
    subjects = next(
        (found for exam, its in zip(run.exams, clips) if (found := chosen(exam, its, count))), []
    )
    if not subjects:
        return note("No clips to draw were found: they are taken from those of an exam.")
    try:
        model = load_model(run.checkpoint, device)
    except (UserError, OSError) as error:
        return note(f"{run.checkpoint}: {error}")
    made = "".join(drawn(*each) for each in wanted(model, run.checkpoint, subjects, device))
    return f'<p class="note">By {text(run.checkpoint)}.</p><div class="figures">{made}</div>'


def chosen(exam: Exam, clips: Clips, count: int) -> list[Subject]:
    """Clips that are there with their captions: of queries that found theirs, if enough did, evenly over the list."""
    rows = [row for row in exam.ranks or [] if row["direction"] == "t2v"]
    pairs = [(row["right"], row["query"]) for row in rows if row["rank"] <= 1]
    if len(pairs) < count:
        pairs = [(row["right"], row["query"]) for row in rows] or captions(clips)
    first = dict(reversed(pairs))
    there = [
        (path, words)
        for name, words in reversed(first.items())
        if (path := clips.path(name)) and words
    ]
    return some(there, count)


def captions(clips: Clips) -> list[Subject]:
    """Each video's id with its captions, without ranks; nothing for recognition, whose videos have none."""
    if clips.data is None:
        return []
    return [
        (clips.data.ids[owner], words)
        for owner, words in zip(clips.data.owner.tolist(), clips.data.captions)
    ]


def wanted(
    model: MILES, checkpoint: Path, subjects: list[Subject], device: str
) -> Iterator[tuple[str, str, Callable[[Path], Path]]]:
    """(kind, alternative text, what writes the PNG): attention and masking of all clips, alignment of each."""
    paths = [path for path, _ in subjects]
    names = ", ".join(Path(path).name for path in paths)
    yield "attention", names, lambda out: attention_figure(model, paths, out, device=device)
    yield "masking", names, lambda out: masking_figure(checkpoint, paths, out, device=device)
    for path, caption in subjects:
        yield (
            "alignment",
            f'{Path(path).name}, "{caption}"',
            lambda out, path=path, caption=caption: alignment_figure(
                model,
                [path],
                caption,
                out,
                word=words(model, caption),
                relative=True,
                device=device,
            ),
        )


def words(model: MILES, caption: str) -> list[str]:
    """The longest WORDS of a caption, without those that mean little by themselves unless there are no others."""
    found = list(dict.fromkeys(encode_words(model, caption)[0]))
    telling = [
        word for word in found if word.lower() not in PLAIN.split() and word.isalnum()
    ] or found
    return sorted(telling, key=len, reverse=True)[:WORDS]


def drawn(kind: str, about: str, write: Callable[[Path], Path]) -> str:
    """One <figure>; what cannot be drawn is said in its place."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Image.open(write(Path(folder) / f"{kind}.png")) as picture:
                source = data_uri(picture.convert("RGB"), QUALITY)
        except (UserError, BrokenVideo, OSError) as error:
            log.warning("no figure of %s: %s", kind, error)
            return note(f"{ABOUT[kind]} Not drawn: {error}")
    return (
        f'<figure class="figure"><figcaption>{text(ABOUT[kind])}</figcaption>'
        f'<img alt="{text(kind)}: {text(about)}" src="{source}"></figure>'
    )


def note(said: str) -> str:
    """A line in small print."""
    return f'<p class="note">{text(said)}</p>'
