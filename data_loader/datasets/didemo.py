"""DiDeMo (Hendricks et al., ICCV 2017): Flickr videos, described moment by moment; here paragraph to video."""

from collections.abc import Iterator

from data_loader.annotations.file_lookup import find_all
from data_loader.annotations.layouts import locate, media_folder, read_json, read_lines
from data_loader.annotations.protocols import of_split
from data_loader.base import Item, TextVideoDataset
from data_loader.datasets import DATASETS

SECONDS = 30.0  # the moments were described within the first half minute, and all published numbers see no more


def _stem(name: str) -> str:
    """x of x.mov, x.mp4, x.avi.mp4 and "x." (Flickr's names have no other dot): the same video under other names."""
    return name.partition(".")[0]


@DATASETS.register("DiDeMo")
class DiDeMo(TextVideoDataset):
    """One query a video: its descriptions, stripped, in the order of the file, with blanks between them."""

    def items(self) -> Iterator[Item]:
        rows_file, list_file = f"{self.split}_data.json", f"{self.split}_list.txt"
        self.layout, (annotations, *lists) = locate(
            f"DiDeMo, split {self.split}",
            self.folders,
            {
                "official": [rows_file, list_file],
                "official without lists": [rows_file],
                "VindLU": [f"didemo_ret_{self.split}.json"],
            },
        )
        self.protocol = of_split("didemo-paragraph", self.split)
        said: dict[str, list[str]] = {}
        names: dict[str, list[str]] = {}
        for row in read_json(annotations):
            told = row["description"] if "description" in row else row["caption"]
            said.setdefault(_stem(row["video"]), []).extend(
                [told] if isinstance(told, str) else told
            )
            names.setdefault(_stem(row["video"]), []).append(row["video"])
        listed = read_lines(lists[0]) if lists else list(names)
        for name in listed if lists else ():
            names.setdefault(_stem(name), []).insert(0, name)
        stems = list(dict.fromkeys(map(_stem, listed)))
        yield from (
            Item(
                stem,
                path,
                [" ".join(each.strip() for each in said[stem])] if stem in said else [],
                0.0,
                SECONDS,
            )
            for stem, path in zip(stems, self._paths(stems, names))
        )

    def _paths(self, stems: list[str], names: dict[str, list[str]]) -> list[str]:
        """For each stem that of its names under which a file lies; the first name where none does."""
        flat = [name for stem in stems for name in names[stem]]
        folder = media_folder(
            self.data_dir, ("videos", "", self.split, f"videos/{self.split}"), flat
        )
        there = dict(zip(flat, find_all(f"{self.data_dir}/{folder}", flat)))
        return [
            f"{folder}/{next((name for name in names[stem] if there[name]), names[stem][0])}".lstrip(
                "/"
            )
            for stem in stems
        ]
