"""What is held out of training for choosing, where a protocol has no validation split."""

import logging

import pytest

from data_loader.annotations.holdout import held_out_mask
from data_loader.datasets import DATASETS
from data_loader.loader import TextVideoDataLoader
from parse_config import ConfigError
from scripts.synthetic.miniatures import MINIATURES

VIDEO = {"num_frames": 2, "input_res": 16, "deadline": 0, "loading": "skip"}
VIDEOS = 12  # of each split
LACKING = [
    m
    for m in MINIATURES
    if m.dataset in ("MSRVTT", "UCF101", "HMDB51")
    and m.args.get("cut") != "full"
    and m.layout != "class folders"
]
NAMES = [f"{m.dataset}-{m.layout}-{m.args.get('cut', '')}".strip("-") for m in LACKING]


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """(folder, JSON args, expected content) of a miniature by its name here; written once."""
    written = {}

    def tree(name):
        if name not in written:
            mini = LACKING[NAMES.index(name)]
            folder = tmp_path_factory.mktemp("tree")
            expected = mini.write(folder, VIDEOS)
            written[name] = folder, {"type": mini.dataset, "args": mini.args}, expected
        return written[name]

    return tree


def load(tree, split, **args):
    folder, spec, _ = tree
    args = {
        "data_dir": str(folder),
        "split": split,
        "video_params": VIDEO,
        "check_files": False,
        **spec["args"],
        **args,
    }
    return DATASETS.build({"type": spec["type"], "args": args})


def ids(tree, split, **args):
    return set(load(tree, split, **args).ids)


@pytest.mark.parametrize("name", NAMES)
def test_train_and_val_are_the_training_split_in_two(trees, name):
    tree = trees(name)
    whole = ids(tree, "train", holdout=0)
    assert whole == set(tree[2]["train"])
    train, val = ids(tree, "train", holdout=5), ids(tree, "val", holdout=5)
    assert train | val == whole and not train & val
    assert 5 <= len(val) < VIDEOS and train
    assert not val & ids(tree, "test"), "nothing of the test split"
    assert not load(tree, "val", holdout=5).validates_on_test


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("MSRVTT")])
def test_msrvtt_holds_out_that_many_each_with_its_first_sentence(trees, name):
    tree = trees(name)
    dataset = load(tree, "val", holdout=5)
    assert len(dataset) == 5 and dataset.protocol is None
    expected = {video: tree[2]["train"][video][0] for video in dataset.ids}
    assert dict(zip(dataset.ids, dataset.captions, strict=True)) == expected
    assert dataset.owner.tolist() == list(range(5))
    assert dataset.counts["expected_videos"] == 5, "complete, of no published protocol"
    assert not dataset.train and dataset.holdout == (5, 0)


def test_the_same_videos_whatever_the_layout_share_seed_or_order(trees):
    layouts = [trees(name) for name in NAMES if name.endswith("jsfusion")]
    assert len(layouts) == 3
    common = set.intersection(*(ids(tree, "train", holdout=0) for tree in layouts))
    held_out = [ids(tree, "val", holdout=5) for tree in layouts]
    assert len({frozenset(video & common) for video in held_out}) == 1
    tree = layouts[0]
    assert ids(tree, "val", holdout=5, subsample=0.2) == held_out[0]
    assert not ids(tree, "train", holdout=5, subsample=0.5) & held_out[0]
    assert len(ids(tree, "train", holdout=4, subsample=0.5)) == 4
    assert ids(tree, "val", holdout=5, holdout_seed=1) != held_out[0]
    assert ids(tree, "val", holdout=3) < held_out[0]
    footage = ids(tree, "train", holdout=5, with_captions=False)
    assert not footage & held_out[0]
    groups = [f"video{i}" for i in range(40)]
    mask = held_out_mask(groups, 7, 0)
    backwards = held_out_mask(groups[::-1], 7, 0)
    assert mask.sum() == 7 and mask.tolist() == backwards.flip(0).tolist()


def test_the_runs_seed_changes_nothing(trees):
    folder, spec, _ = trees("MSRVTT-Frozen-jsfusion")
    galleries = {
        tuple(
            TextVideoDataLoader(
                "MSRVTT",
                data_dir=str(folder),
                split="val",
                holdout=5,
                seed=seed,
                num_workers=0,
                video_params=VIDEO,
                **spec["args"],
            ).dataset.ids
        )
        for seed in (0, 1, 2)
    }
    assert len(galleries) == 1


def test_the_default_is_500_and_at_most_a_fifth(trees):
    tree = trees("MSRVTT-Frozen-jsfusion")
    assert load(tree, "train").holdout == (VIDEOS // 5, 0)
    assert len(ids(tree, "val")) == VIDEOS // 5
    assert load(tree, "test").holdout == (500, 0)
    assert load(tree, "test", holdout=0).holdout == (0, 0)
    assert load(tree, "train", holdout=0).holdout == (0, 0)


def test_the_log_says_what_is_held_out(trees, caplog):
    tree = trees("MSRVTT-Frozen-jsfusion")
    for split in ("train", "val"):
        with caplog.at_level(logging.INFO):
            load(tree, split, holdout=5, holdout_seed=3)
        line = f"{split}: 5 of 12 training videos are held out for validation (holdout_seed 3)"
        assert line in caplog.text
    caplog.clear()
    load(tree, "val", holdout=0)
    assert "the test split stands in" in caplog.text


def test_the_protocol_of_training_expects_less_what_is_held_out(trees):
    dataset = load(trees("MSRVTT-Frozen-jsfusion"), "train", holdout=5)
    counts = dataset.counts
    assert dataset.protocol == "msrvtt-1k-A-train"
    assert (counts["num_videos"], counts["expected_videos"]) == (7, 8995)
    left_out = 5 * 3  # captions of each video of the miniature
    assert counts["expected_captions"] == 180_000 - left_out


def test_clips_of_one_source_stay_together():
    ucf = object.__new__(DATASETS.get("UCF101"))
    hmdb = object.__new__(DATASETS.get("HMDB51"))
    group = ucf.holdout_group("YoYo/v_YoYo_g01_c02")
    assert group == ucf.holdout_group("YoYo/v_YoYo_g01_c05") == "YoYo/v_YoYo_g01"
    assert group != ucf.holdout_group("YoYo/v_YoYo_g02_c02")
    clip = "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0"
    assert hmdb.holdout_group(clip) == "brush_hair/April_09"
    groups = [f"g{i // 4}" for i in range(40)]
    mask = held_out_mask(groups, 6, 0).view(10, 4)
    assert mask.sum() == 8 and set(mask.sum(1).tolist()) == {0, 4}


@pytest.mark.parametrize(
    "split, args, words",
    [
        ("train", {"holdout": 12}, "12 videos are to be held out, .* has 12"),
        ("val", {"holdout": 500}, "500 videos are to be held out, .* has 12"),
        ("train", {"holdout": -1}, "-1 is given, 0 or more"),
        ("test", {"holdout": -1}, "-1 is given, 0 or more"),
    ],
)
def test_a_number_that_cannot_be_is_refused(trees, split, args, words):
    with pytest.raises(ConfigError, match=words):
        load(trees("MSRVTT-Frozen-jsfusion"), split, **args)


def test_a_data_set_with_a_validation_split_has_nothing_to_hold_out(tmp_path):
    mini = next(m for m in MINIATURES if m.args.get("cut") == "full")
    mini.write(tmp_path, 4)
    tree = tmp_path, {"type": mini.dataset, "args": mini.args}, None
    with pytest.raises(ConfigError, match="has a split 'val' of its own"):
        load(tree, "train", holdout=2)
    assert load(tree, "val", holdout=0).holdout is None
    assert len(load(tree, "train")) == 4


def test_of_fewer_than_five_training_videos_none_is_held_out(tmp_path, caplog):
    expected = LACKING[0].write(tmp_path, 4)
    tree = tmp_path, {"type": "MSRVTT", "args": LACKING[0].args}, None
    assert ids(tree, "train") == set(expected["train"])
    assert ids(tree, "val") == set(expected["test"])
    assert load(tree, "val").holdout == (0, 0)
    assert "the test split stands in" in caplog.text
    assert len(ids(tree, "val", holdout=1)) == 1


@pytest.mark.parametrize("name", ["UCF101", "HMDB51"])
def test_actions_without_lists_have_nothing_to_choose_by(tmp_path, name):
    mini = next(
        m for m in MINIATURES if m.dataset == name and m.layout == "class folders"
    )
    mini.write(tmp_path, 4)
    tree = tmp_path, {"type": name, "args": mini.args}, None
    with pytest.raises(FileNotFoundError, match="looked for"):
        load(tree, "val")
    assert load(tree, "val", holdout=0).validates_on_test
