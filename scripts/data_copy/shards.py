"""A split of the copy as tar files, which the data set TarShards reads."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from tqdm import tqdm

from data_loader.annotations.file_lookup import MEDIA_EXTENSIONS
from data_loader.base import TextVideoDataset
from data_loader.datasets import DATASETS
from data_loader.loader import open_leniently
from data_loader.readers.image_reader import is_image
from parse_config import Config, ConfigError, UserError
from scripts.data_copy.listing import PARTS, SHARDS
from scripts.data_copy.video import target_error

ONE_SHARD_BYTES = 1 << 60  # the number of videos alone decides where a shard ends


class ShardSettings(NamedTuple):
    """What is packed: arguments of the loader (dataset_name, split, cut, ...) and videos per tar file."""

    loader_args: Mapping[str, Any]
    videos_per_shard: int

    @property
    def name(self) -> str:
        """The folder of the tar files, below shards/."""
        return str(self.loader_args["split"])


def check_shards(source: Path, out: Path, settings: ShardSettings) -> None:
    """Raise ConfigError, before hours of copying, for what cannot be packed."""
    DATASETS.get(settings.loader_args["dataset_name"], "--dataset")
    folder = out / SHARDS / settings.name
    if folder.exists():
        raise ConfigError(f"{folder}: is there already; remove it to pack anew")
    _check_dataset(_open(source, settings, check_files=False))


def _open(
    data_dir: Path, settings: ShardSettings, check_files: bool
) -> TextVideoDataset:
    args = {
        **settings.loader_args,
        "data_dir": str(data_dir),
        "check_files": check_files,
    }
    return open_leniently(Config({"type": "TextVideoDataLoader", "args": args}))


def _check_dataset(dataset: TextVideoDataset) -> None:
    if any(dataset.segment(index) != (None, None) for index in range(len(dataset))):
        raise ConfigError(
            f"--shards: {dataset.name} cuts its videos in time, which tar shards cannot say; use the copy as it is"
        )
    name, count = Counter(dataset.ids).most_common(1)[0]
    if count > 1:
        raise ConfigError(
            f"--shards: {dataset.name} has {count} videos with the id {name!r}; give each its own in the annotations"
        )


def pack_shards(out: Path, settings: ShardSettings) -> str:
    """Write the videos of a split that are in the copy, with ids and captions, into tar files -> what was packed.

    Each keeps its id: percent-encoded as the member's name, and as it is in "id" of its .json. Raises TargetError.
    """
    import webdataset

    dataset = _open(out, settings, check_files=True)
    _check_dataset(dataset)
    folder = out / SHARDS / settings.name
    temporary = out / PARTS / SHARDS
    try:
        temporary.mkdir(parents=True)
        with webdataset.ShardWriter(
            str(temporary / "%05d.tar"),
            maxcount=settings.videos_per_shard,
            maxsize=ONE_SHARD_BYTES,
            verbose=0,
        ) as writer:
            for sample in tqdm(
                _samples(dataset), total=len(dataset), unit="video", disable=None
            ):
                writer.write(sample)
        folder.parent.mkdir(exist_ok=True)
        os.replace(temporary, folder)
    except OSError as error:
        raise target_error(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _summary(folder, dataset, settings.videos_per_shard)


def _samples(dataset: TextVideoDataset) -> Iterator[dict[str, Any]]:
    for index in range(len(dataset)):
        path = Path(dataset.paths[index])
        try:
            content = path.read_bytes()
            extension = _extension(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        video_id = dataset.ids[index]
        captions = list(dataset.captions_of(index))
        yield {
            "__key__": shard_key(video_id),
            extension: content,
            "json": {"id": video_id, "captions": captions},
        }


def shard_key(video_id: str) -> str:
    """The id as the name of a member of a tar file, without a dot: to webdataset all behind one is an extension."""
    return quote(video_id, safe=" ").replace(".", "%2E") or "%"


def _extension(path: Path) -> str:
    """Without its dot; one that readers of shards know, whatever the file is called."""
    if path.suffix.lower() in MEDIA_EXTENSIONS:
        return path.suffix.lower().lstrip(".")
    return "jpg" if is_image(str(path)) else "mp4"


def _summary(folder: Path, dataset: TextVideoDataset, videos_per_shard: int) -> str:
    missing = dataset.counts["missing"]
    left_out = ""
    if missing:
        examples = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        left_out = f"; {len(missing)} listed videos are not in the copy and left out: {examples}"
    return (
        f"{folder}: {len(dataset)} videos in tar files of {videos_per_shard}{left_out}"
    )


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/prepare_data.py --help")
