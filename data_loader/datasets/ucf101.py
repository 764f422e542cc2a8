"""UCF101 (Soomro et al., 2012): 101 actions, for zero-shot recognition."""

from data_loader.action_dataset import ActionDataset, ActionSplit
from data_loader.annotations.layouts import find_layout, read_lines, search_folders
from data_loader.datasets import DATASETS


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
        return ActionSplit(
            clips=[line.split()[0] for line in read_lines(list_path)],
            class_folders=[line.split()[1] for line in read_lines(index_path)],
        )
