"""MSVD (Chen and Dolan, ACL 2011), also YouTubeClips: 1,970 videos with 18 to 81 captions each."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_loader.annotations.layouts import (
    caption_texts,
    find_layout,
    look_up_listed,
    read_json,
    read_lines,
    read_pickle,
)
from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.media_folders import media_paths
from data_loader.annotations.protocols import protocol_of_split
from data_loader.base import Annotations, Item, TextVideoDataset
from data_loader.datasets import DATASETS
from parse_config import ConfigError

CAPTION_READERS: dict[str, Callable[[Path], Any]] = {
    "raw-captions.pkl": read_pickle,
    "captions_msvd.json": read_json,
}
VIDEO_FOLDERS = ("YouTubeClips", "", "videos", "videos/all")
PROTOCOLS = ("all_captions", "one_caption", "paragraph")


def select_queries(captions: list[str], protocol: str) -> list[str]:
    """A video's captions -> its queries in `protocol` (see MSVD)."""
    if protocol == "one_caption":
        return captions[:1]
    if protocol == "paragraph":
        return [" ".join(caption.strip() for caption in captions)]
    return captions


@DATASETS.register("MSVD")
class MSVD(TextVideoDataset):
    """MSVD with its 1,200, 100 and 670 videos; training draws from all captions whatever the protocol.

    Args:
        protocol: queries in val and test: every caption (all_captions), the first caption of a video (one_caption) or
            all its captions joined (paragraph)
    """

    def __init__(
        self, data_dir: str, protocol: str = "all_captions", **common: Any
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ConfigError(
                f"protocol: {protocol!r} is no protocol of MSVD; known: {', '.join(PROTOCOLS)}"
            )
        self.query_protocol = protocol
        super().__init__(data_dir, **common)

    def annotations(self) -> Annotations:
        list_file = f"{self.split}_list.txt"
        layout, (list_path, captions_path) = find_layout(
            f"MSVD, split {self.split}",
            self.annotation_folders,
            {file: [list_file, file] for file in CAPTION_READERS},
        )
        all_captions = CAPTION_READERS[layout](captions_path)
        left_out = LeftOut()
        listed = look_up_listed(
            read_lines(list_path), all_captions, captions_path, left_out
        )
        captions = {
            name: caption_texts(video_captions, captions_path, repr(name))
            for name, video_captions in listed.items()
        }
        return Annotations(
            items=self._items(captions),
            left_out=left_out,
            layout=layout,
            protocol=protocol_of_split(
                f"msvd-{self.query_protocol.replace('_', '-')}", self.split
            ),
        )

    def _items(self, captions: dict[str, list[str]]) -> Iterator[Item]:
        protocol = self.query_protocol
        if self.train:
            protocol = "all_captions"
        paths = media_paths(
            self.data_dir, VIDEO_FOLDERS, [f"{name}.avi" for name in captions]
        )
        for (name, video_captions), path in zip(captions.items(), paths):
            yield Item(name, path, select_queries(video_captions, protocol))
