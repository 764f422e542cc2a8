"""Figures of scripts/visualize.py for a few clips of an evaluation, as pictures that lie in the page itself."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from data_loader.reader import BrokenVideo
from model import load_model
from model.miles import MILES
from model.text.word_features import encode_words
from parse_config import UserError
from scripts.html_report.run_folder import Evaluation, Run
from scripts.html_report.tables import escape, note
from scripts.html_report.thumbnails import Clips, evenly_spaced, jpeg_data_uri
from scripts.visualize import alignment_figure, attention_figure, masking_figure

log = logging.getLogger(__name__)
NUM_WORDS = 4  # of a caption, in the alignment's figure
STOP_WORDS = (
    "a an and are as at be by clip each for from has have her his how in into is it its of on or our out s see "
    "that the their then there these they this to up very video was we were while who with"
)
QUALITY = 88
DESCRIPTIONS = {
    "attention": "Where CLS looks: self-attention of CLS in the last block, mean over the heads, over each frame.",
    "alignment": "Where a word is: the cosine of its feature with every patch feature, less the mean over the "
    "caption's words.",
    "masking": "Masked visual modeling: the clip, what the model sees of it, and the error of each hidden place.",
}


class CaptionedClip(NamedTuple):
    """A video file and its caption."""

    path: str
    caption: str


def draw_figures(
    run: Run, clips: Sequence[Clips], count: int, device: str = "cpu"
) -> str:
    """<figure>s of a few clips of the first evaluation that has clips, or the reason why there are none.

    Args:
        run: what `read_run` has read
        clips: the clips of each evaluation
        count: number of clips
        device: that computes the figures
    """
    if not count:
        return note("Left out by --figures 0.")
    if run.checkpoint is None:
        return note("No checkpoint was found.")

    captioned_clips: list[CaptionedClip] = []
    for evaluation, evaluation_clips in zip(run.evaluations, clips):
        captioned_clips = choose_clips(evaluation, evaluation_clips, count)
        if captioned_clips:
            break
    if not captioned_clips:
        return note(
            "No clips to draw were found: they are taken from those of an evaluation."
        )

    try:
        model = load_model(run.checkpoint, device)
    except (UserError, OSError) as error:
        return note(f"{run.checkpoint}: {error}")

    figures = "".join(model_figures(model, run.checkpoint, captioned_clips, device))
    return f'{note(f"By {run.checkpoint}.")}<div class="figures">{figures}</div>'


def choose_clips(
    evaluation: Evaluation, clips: Clips, count: int
) -> list[CaptionedClip]:
    """Clips whose files exist, evenly over the list: those whose caption found them, if there are enough of these."""
    rows = [row for row in evaluation.ranks or [] if row["direction"] == "t2v"]
    pairs = [(row["right"], row["query"]) for row in rows if row["rank"] <= 1]
    if len(pairs) < count:
        pairs = [(row["right"], row["query"]) for row in rows] or captions_by_id(clips)

    first_captions = dict(
        reversed(pairs)
    )  # a video with several captions is shown with its first
    captioned_clips = []
    for video_id, caption in reversed(first_captions.items()):
        path = clips.path(video_id)
        if path and caption:
            captioned_clips.append(CaptionedClip(path, caption))

    return evenly_spaced(captioned_clips, count)


def captions_by_id(clips: Clips) -> list[tuple[str, str]]:
    """(video id, caption) of a data set; none for recognition, whose videos have no captions."""
    if clips.dataset is None:
        return []

    owners = clips.dataset.owner.tolist()
    return [
        (clips.dataset.ids[owner], caption)
        for owner, caption in zip(owners, clips.dataset.captions)
    ]


def model_figures(
    model: MILES,
    checkpoint: Path,
    captioned_clips: Sequence[CaptionedClip],
    device: str,
) -> Iterator[str]:
    """<figure>s: attention and masking of all clips, alignment of each."""
    paths = [clip.path for clip in captioned_clips]
    file_names = ", ".join(Path(path).name for path in paths)
    yield figure(
        "attention", file_names, partial(attention_figure, model, paths, device=device)
    )
    yield figure(
        "masking", file_names, partial(masking_figure, checkpoint, paths, device=device)
    )

    for clip in captioned_clips:
        subject = f'{Path(clip.path).name}, "{clip.caption}"'
        yield figure("alignment", subject, partial(draw_alignment, model, clip, device))


def draw_alignment(
    model: MILES, clip: CaptionedClip, device: str, out_png: Path
) -> Path:
    """Writes the alignment of a clip with the most telling words of its caption."""
    return alignment_figure(
        model,
        [clip.path],
        clip.caption,
        out_png,
        word=telling_words(model, clip.caption),
        relative=True,
        device=device,
    )


def telling_words(model: MILES, caption: str) -> list[str]:
    """The NUM_WORDS longest words of a caption, without stop words unless there are no others."""
    words = list(dict.fromkeys(encode_words(model, caption)[0]))
    stop_words = STOP_WORDS.split()
    content_words = [
        word for word in words if word.lower() not in stop_words and word.isalnum()
    ]
    return sorted(content_words or words, key=len, reverse=True)[:NUM_WORDS]


def figure(name: str, subject: str, write_png: Callable[[Path], Path]) -> str:
    """A <figure> of what `write_png` draws, or the reason why it cannot be drawn.

    Args:
        name: of DESCRIPTIONS
        subject: what is drawn, for those who cannot see the picture
        write_png: writes the picture to the path that it gets, and returns the path
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Image.open(write_png(Path(folder) / f"{name}.png")) as image:
                source = jpeg_data_uri(image.convert("RGB"), QUALITY)
        except (UserError, BrokenVideo, OSError) as error:
            log.warning("no figure of %s: %s", name, error)
            return note(f"{DESCRIPTIONS[name]} Not drawn: {error}")

    return (
        f'<figure class="figure"><figcaption>{escape(DESCRIPTIONS[name])}</figcaption>'
        f'<img alt="{escape(name)}: {escape(subject)}" src="{source}"></figure>'
    )


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/report.py --help")
