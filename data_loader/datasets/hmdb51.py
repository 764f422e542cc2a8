"""HMDB51 (Kuehne et al., ICCV 2011): 51 actions, for zero-shot recognition."""

from data_loader.action_dataset import ActionDataset, ActionSplit
from data_loader.annotations.file_lookup import is_foreign
from data_loader.annotations.layouts import (
    read_numbered_lines,
    search_folders,
)
from data_loader.annotations.shapes import describe
from data_loader.datasets import DATASETS
from parse_config import UserError

LIST_SUFFIX = "_test_split1.txt"
# in the lists; 0: in neither
SPLIT_CODES = {"train": "1", "test": "2"}
KNOWN_CODES = ("0", "1", "2")


@DATASETS.register("HMDB51")
class HMDB51(ActionDataset):
    """Split 1 of the official lists if they exist, else, for a gallery, every clip of the class folders."""

    roots = ("", "hmdb51_org", "hmdb51", "HMDB51", "videos")
    official_protocol = "hmdb51-split1"

    def holdout_group(self, video_id: str) -> str:
        """The clips of one source video: April_09_brush_hair_u_nm_np1_ba_goo_0 is of April_09."""
        folder, _, clip = video_id.partition("/")
        return f"{folder}/{clip.partition(f'_{folder}_')[0]}"

    def official_split(self) -> ActionSplit | None:
        # the first folders last: their lists are the ones that count
        list_paths = {
            path.name.removesuffix(LIST_SUFFIX): path
            for folder in reversed(search_folders(self.annotation_folders))
            for path in folder.glob(f"*{LIST_SUFFIX}")
            if not is_foreign(path.name)
        }
        if not list_paths:
            if self.official_split_name == "train":
                raise FileNotFoundError(
                    f"{self.data_dir}: no official split of HMDB51 here nor in a folder below; looked "
                    f"for testTrainMulti_7030_splits/*{LIST_SUFFIX}"
                )
            return None

        clips = []
        for class_folder in sorted(list_paths):
            list_path = list_paths[class_folder]
            for number, line in read_numbered_lines(list_path):
                words = line.rsplit(None, 1)
                if len(words) < 2 or words[1] not in KNOWN_CODES:
                    raise UserError(
                        f"{list_path}: line {number}: a file and 0, 1 or 2 are needed, not {describe(line)}; fetch "
                        "the file again"
                    )
                file, code = words
                if code == SPLIT_CODES[self.official_split_name]:
                    clips.append(f"{class_folder}/{file}")
        return ActionSplit(clips, sorted(list_paths))
