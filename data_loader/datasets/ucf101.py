"""UCF101 (Soomro et al., 2012): 101 actions, for zero-shot recognition."""

from collections.abc import Sequence
from pathlib import Path

from data_loader.action_dataset import ActionDataset, ActionSplit
from data_loader.annotations.layouts import (
    find_layout,
    read_numbered_lines,
    search_folders,
)
from data_loader.annotations.shapes import describe
from data_loader.datasets import DATASETS
from parse_config import UserError


@DATASETS.register("UCF101")
class UCF101(ActionDataset):
    """Split 1 of the official lists if they exist, else, for a gallery, every clip of the class folders."""

    roots = ("", "UCF-101", "UCF101", "videos")
    official_protocol = "ucf101-split1"

    def holdout_group(self, video_id: str) -> str:
        """The clips of one source video: v_YoYo_g01_c02 is clip 2 of group 1."""
        return video_id.rpartition("_c")[0] or video_id

    def official_split(self) -> ActionSplit | None:
        list_name = f"{self.official_split_name}list01.txt"
        folders = search_folders(self.annotation_folders)
        has_list = any((folder / list_name).is_file() for folder in folders)
        if not has_list and self.official_split_name == "test":
            return None

        _, (list_path, index_path) = find_layout(
            f"UCF101, split {self.split}",
            self.annotation_folders,
            {"official split 1": [list_name, "classInd.txt"]},
        )
        class_folders = _class_folders(index_path)
        return ActionSplit(_clips(list_path, index_path, class_folders), class_folders)


def _class_folders(index_path: Path) -> list[str]:
    """Of lines "number class"."""
    folders = []
    for number, line in read_numbered_lines(index_path):
        words = line.split()
        if len(words) != 2:
            raise UserError(
                f"{index_path}: line {number}: a number and a class are needed, not {describe(line)}; fetch the file "
                "again"
            )
        folders.append(words[1])
    return folders


def _clips(
    list_path: Path, index_path: Path, class_folders: Sequence[str]
) -> list[str]:
    """Of lines "class/file", behind which there may be the number of the class."""
    clips = []
    for number, line in read_numbered_lines(list_path):
        clip = line.split()[0]
        folder, _, file = clip.partition("/")
        if not file or folder not in class_folders:
            raise UserError(
                f"{list_path}: line {number}: class/file with a class of {index_path.name} is needed, not "
                f"{describe(line)}; fetch both files again"
            )
        clips.append(clip)
    return clips
