"""A folder of videos or pictures, each with its captions in a text file of the same name beside it.

data_dir/train/dog.mp4
data_dir/train/dog.txt      one caption per line
data_dir/test/...
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from data_loader.annotations.file_lookup import is_foreign, is_media
from data_loader.annotations.layouts import read_lines, search_folders
from data_loader.annotations.media_scan import (
    MediaScan,
    one_per_stem,
    scan_media,
)
from data_loader.annotations.split_folders import (
    require_no_splits_below,
    split_folders,
    subfolder_names,
    warn_of_other_split,
)
from data_loader.base import Annotations, Item, TextVideoDataset
from data_loader.datasets import DATASETS
from data_loader.file_kind import GIT_LFS, describe_file
from parse_config import UserError

log = logging.getLogger(__name__)


@DATASETS.register("VideoFolder")
class VideoFolder(TextVideoDataset):
    """Every known video and picture under data_dir/<split>, or, if no split has a folder, under data_dir for any split.

    A split's folder may be called by a usual synonym, in any case: Train, training, valid, validation, dev, Test, ...
    Captions are the lines of <name>.txt (in metadata_dir, if given, or beside the video). Videos without captions are
    left out of training and stay in galleries. With with_captions false no text file is read. A picture beside a video
    of the same name is no item, and of several videos of one name the likeliest is taken; the log says what is left
    out.
    """

    def annotations(self) -> Annotations:
        split_folder = self._split_folder()
        scan = scan_media(os.path.join(self.data_dir, split_folder))
        self._check_scan(scan)
        if split_folder == "":
            paths = [folder.path for folder in scan.folders if folder.media]
            require_no_splits_below(self.data_dir, paths)
            warn_of_other_split(self.name, self.data_dir, self.split)

        layout = "whole folder"
        if split_folder:
            layout = f"subfolders ({split_folder})"
        return Annotations(items=self._items(scan, split_folder), layout=layout)

    def _split_folder(self) -> str:
        """Name of the folder of `self.split`; "" if no split has one. FileNotFoundError if only others have."""
        # raises FileNotFoundError if there is no such folder
        search_folders([self.data_dir])

        names = subfolder_names(self.data_dir)
        folder_of_split = split_folders(self.data_dir, names)
        if not folder_of_split:
            return ""

        if self.split not in folder_of_split:
            raise FileNotFoundError(
                f"{self.data_dir}: has folders {', '.join(folder_of_split.values())} and none for split "
                f"{self.split!r}"
            )
        self._report_outside(set(names) - set(folder_of_split.values()))
        return folder_of_split[self.split]

    def _report_outside(self, other_folders: set[str]) -> None:
        """Log which files and folders beside those of the splits are in no split."""
        with os.scandir(self.data_dir) as entries:
            outside = sorted(
                entry.name
                for entry in entries
                if is_media(entry.name) and not is_foreign(entry.name)
            )
        outside += sorted(f"{folder}/" for folder in other_folders)
        if outside:
            log.warning(
                "%s: in no split, since splits have folders: %s",
                self.name,
                ", ".join(outside[:5]) + (", ..." if len(outside) > 5 else ""),
            )

    def _check_scan(self, scan: MediaScan) -> None:
        """UserError if there is nothing, or, if loading is strict, an unreadable folder; log what is left out."""
        for folder in scan.unreadable:
            if self.video.loading == "strict":
                raise UserError(
                    f'{folder}; video_params.loading "skip" goes on without that folder'
                )
            log.warning("%s: left out, %s", self.name, folder)

        left_out = scan.left_out()
        if not any(folder.media for folder in scan.folders):
            remark = f"; it has {left_out}" if left_out else ""
            raise UserError(f"{scan.top}: holds no video and no picture{remark}")
        if left_out:
            log.warning("%s: left out: %s", self.name, left_out)

    def _items(self, scan: MediaScan, split_folder: str) -> Iterator[Item]:
        """The files of a folder, sorted, then those of its subfolders."""
        other_texts = self._texts_of_metadata_dir(scan, split_folder)
        doubled = 0

        for folder in scan.folders:
            files = one_per_stem(folder.media)
            doubled += len(folder.media) - len(files)
            for file in files:
                name = os.path.splitext(os.path.join(folder.path, file))[0]
                texts = [other_texts.get(name)]
                if os.path.basename(name) in folder.texts:
                    text_file = folder.texts[os.path.basename(name)]
                    texts.append(Path(scan.top, folder.path, text_file))
                path = os.path.join(split_folder, folder.path, file)
                yield Item(name, path, self._captions(texts))

        if doubled:
            log.warning(
                "%s: left out: %d files beside another of the same name (a.webm beside a.mp4)",
                self.name,
                doubled,
            )

    def _texts_of_metadata_dir(
        self, scan: MediaScan, split_folder: str
    ) -> dict[str, Path]:
        """{name of a video: its text file} in metadata_dir; {} without one, or if captions are not wanted."""
        if not self.with_captions or len(self.annotation_folders) < 2:
            return {}

        metadata_dir = self.annotation_folders[0]
        search_folders([metadata_dir])
        folders = split_folders(metadata_dir, subfolder_names(metadata_dir))
        if split_folder:
            split_folder = folders.get(self.split, split_folder)

        top = Path(metadata_dir, split_folder)
        texts = {
            os.path.join(folder.path, name): top / folder.path / file
            for folder in (scan_media(top).folders if top.is_dir() else [])
            for name, file in folder.texts.items()
        }
        self._report_unused(texts, scan)
        return texts

    def _report_unused(self, texts: dict[str, Path], scan: MediaScan) -> None:
        names = {os.path.splitext(path)[0] for path in scan.paths()}
        unused = sorted(set(texts) - names)
        if unused:
            log.warning(
                "%s: left out: %d .txt without a video in metadata_dir, %s first",
                self.name,
                len(unused),
                texts[unused[0]],
            )

    def _captions(self, texts: list[Path | None]) -> list[str]:
        """The lines of the first text file; [] if there is none or captions are not wanted."""
        if not self.with_captions:
            return []
        text_path = next((path for path in texts if path is not None), None)
        if text_path is None:
            return []
        lines = read_lines(text_path)
        if lines and lines[0].startswith(GIT_LFS.decode()):
            raise UserError(f"{text_path}: {describe_file(text_path)}")
        # a file of blanks is one blank caption, which is left out with its video
        return lines or [""]
