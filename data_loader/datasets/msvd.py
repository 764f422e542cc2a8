"""MSVD (Chen and Dolan, ACL 2011), also YouTubeClips: 1,970 videos with 18 to 81 captions each."""

from collections.abc import Iterator

from data_loader.annotations.layouts import (
    captions_of,
    locate,
    media_folder,
    read_json,
    read_lines,
    read_pickle,
    words,
)
from data_loader.annotations.protocols import of_split
from data_loader.base import Item, TextVideoDataset
from data_loader.datasets import DATASETS
from parse_config import ConfigError

QUERIES = {  # protocol -> a video's captions -> its queries
    "all_captions": lambda said: said,
    "one_caption": lambda said: said[:1],
    "paragraph": lambda said: [" ".join(caption.strip() for caption in said)],
}


@DATASETS.register("MSVD")
class MSVD(TextVideoDataset):
    """protocol: what a query is in val and test: every caption (all_captions), the first caption of a video
    (one_caption) or all its captions joined (paragraph). Training draws from all captions in any case."""

    def __init__(self, data_dir: str, protocol: str = "all_captions", **common):
        if protocol not in QUERIES:
            raise ConfigError(
                f"protocol: {protocol!r} is no protocol of MSVD; known: {', '.join(QUERIES)}"
            )
        self.queries = protocol
        super().__init__(data_dir, **common)

    def items(self) -> Iterator[Item]:
        lists = f"{self.split}_list.txt"
        readers = {"raw-captions.pkl": read_pickle, "captions_msvd.json": read_json}
        self.layout, (names, source) = locate(
            f"MSVD, split {self.split}", self.folders, {file: [lists, file] for file in readers}
        )
        self.protocol = of_split(f"msvd-{self.queries.replace('_', '-')}", self.split)
        captions = captions_of(read_lines(names), readers[self.layout](source), source)
        folder = media_folder(
            self.data_dir, ("YouTubeClips", "", "videos"), [f"{name}.avi" for name in captions]
        )
        queries = QUERIES["all_captions" if self.train else self.queries]
        for name, said in captions.items():
            yield Item(
                name,
                f"{folder}/{name}.avi".lstrip("/"),
                queries([words(caption) for caption in said]),
            )
