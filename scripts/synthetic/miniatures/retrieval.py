"""MSR-VTT, MSVD, LSMDC and DiDeMo as they are distributed."""

import json
import pickle

from scripts.synthetic.miniatures import miniature, sentence, sentences, write_media, write_text


def write_pickle(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def ids(videos, *splits):
    """{split: video numbers}, `videos` a split, in an order that is not sorted."""
    return {
        split: [videos * place + i for i in reversed(range(videos))]
        for place, split in enumerate(splits)
    }


def msrvtt_clips(folder, numbers, suffix=".mp4"):
    for number in numbers:
        write_media(folder / f"video{number}{suffix}", number)


def frozen(folder, videos, cut, splits):
    """Captions of one video lie apart, lists end with and without a newline."""
    numbers = ids(videos, *splits)
    everyone = [number for split in splits for number in numbers[split]]
    annotations = [
        {"image_id": f"video{number}", "caption": sentence(number, k), "id": k * 1000 + number}
        for k in range(3)
        for number in everyone
    ]
    write_text(
        folder / "annotation/MSR_VTT.json",
        json.dumps({"annotations": annotations, "images": [], "type": "captions"}),
    )
    lists = folder / "high-quality/structured-symlinks"
    for split, name in splits.items():
        names = "\n".join(f"video{n}" for n in numbers[split])
        write_text(lists / f"{name}_list_{cut}.txt", names + "\n" * (split == "train"))
    msrvtt_clips(folder / "videos/all", everyone)
    return {split: {f"video{n}": sentences(n, 3) for n in numbers[split]} for split in splits}


@miniature("MSRVTT", "Frozen", cut="jsfusion")
def msrvtt_frozen(folder, videos):
    expected = frozen(folder, videos, "jsfusion", {"train": "train", "test": "val"})
    index = {name: i % 3 for i, name in enumerate(sorted(expected["test"]))}
    write_pickle(folder / "high-quality/structured-symlinks/jsfusion_val_caption_idx.pkl", index)
    return {
        **expected,
        "test": {name: (all_[index[name]],) for name, all_ in expected["test"].items()},
    }


@miniature("MSRVTT", "Frozen", cut="full")
def msrvtt_frozen_full(folder, videos):
    return frozen(folder, videos, "full", {"train": "train", "val": "val", "test": "test"})


@miniature("MSRVTT", "Frozen", cut="miech")
def msrvtt_frozen_miech(folder, videos):
    expected = frozen(folder, videos, "miech", {"train": "train", "test": "test"})
    return {**expected, "test": {name: all_[:1] for name, all_ in expected["test"].items()}}


def official(numbers, splits):
    """videos and sentences as the official files have them: a video's sentences contiguous, videos in no order."""
    videos = [
        {
            "video_id": f"video{n}",
            "id": n,
            "category": 3,
            "url": "https://example.org/x",
            "start time": 1.0,
            "end time": 9.0,
            "split": split,
        }
        for split, part in zip(splits, numbers)
        for n in sorted(part)
    ]
    everyone = [n for part in numbers for n in part]
    said = [
        {"sen_id": 3 * n + k, "video_id": f"video{n}", "caption": sentence(n, k)}
        for n in everyone
        for k in range(3)
    ]
    return {"info": {}, "videos": videos, "sentences": said}


@miniature("MSRVTT", "official", cut="full")
def msrvtt_official(folder, videos):
    numbers = ids(videos, "train", "val", "test")
    write_text(
        folder / "train_val_videodatainfo.json",
        json.dumps(official((numbers["train"], numbers["val"]), ("train", "validate"))),
    )
    write_text(
        folder / "test_videodatainfo.json", json.dumps(official((numbers["test"],), ("test",)))
    )
    msrvtt_clips(folder / "TrainValVideo", numbers["train"] + numbers["val"])
    msrvtt_clips(folder / "TestVideo", numbers["test"])
    return {split: {f"video{n}": sentences(n, 3) for n in part} for split, part in numbers.items()}


@miniature("MSRVTT", "CLIP4Clip", cut="jsfusion")
def msrvtt_clip4clip(folder, videos):
    numbers = ids(videos, "train", "test")
    write_text(
        folder / "MSRVTT_train.9k.csv",
        "\n".join(["video_id", *(f"video{n}" for n in numbers["train"])]),
        "\r\n",
    )
    rows = [f"ret{i},msr{n},video{n},{sentence(n, 2)}" for i, n in enumerate(numbers["test"])]
    write_text(
        folder / "MSRVTT_JSFUSION_test.csv", "\n".join(["key,vid_key,video_id,sentence", *rows, ""])
    )
    write_text(
        folder / "MSRVTT_data.json",
        json.dumps(official((numbers["train"], numbers["test"]), ("train", "test"))),
    )
    msrvtt_clips(folder, numbers["train"])
    msrvtt_clips(folder, numbers["test"], ".webm")
    return {
        "train": {f"video{n}": sentences(n, 3) for n in numbers["train"]},
        "test": {f"video{n}": (sentence(n, 2),) for n in numbers["test"]},
    }


@miniature("MSRVTT", "VindLU", cut="jsfusion")
def msrvtt_vindlu(folder, videos):
    numbers = ids(videos, "train", "test")
    train = [{"video": f"video{n}.mp4", "caption": list(sentences(n, 3))} for n in numbers["train"]]
    test = [{"video": f"video{n}.mp4", "caption": sentence(n)} for n in numbers["test"]]
    write_text(folder / "msrvtt_ret_train9k.json", json.dumps(train))
    write_text(folder / "msrvtt_ret_test1k.json", json.dumps(test))
    msrvtt_clips(folder / "videos", numbers["train"] + numbers["test"])
    return {
        "train": {f"video{n}": sentences(n, 3) for n in numbers["train"]},
        "test": {f"video{n}": (sentence(n),) for n in numbers["test"]},
    }


def msvd(folder, videos, suffix):
    """Ragged captions; every third id begins with "-"; lists with a BOM, with CRLF, without a final newline."""
    numbers = ids(videos, "train", "val", "test")
    expected = {
        split: {f"{'-' * (n % 3 == 0)}Yx{n}_5_15": sentences(n, 1 + n % 4) for n in part}
        for split, part in numbers.items()
    }
    for split, clips in expected.items():
        newline = "\r\n" if split == "test" else "\n"
        write_text(
            folder / f"{split}_list.txt", "\ufeff" * (split == "val") + "\n".join(clips), newline
        )
        for n, name in zip(numbers[split], clips):
            write_media(folder / f"YouTubeClips/{name}{suffix}", n)
    return expected, {name: said for clips in expected.values() for name, said in clips.items()}


@miniature("MSVD", "raw-captions.pkl")
def msvd_pickle(folder, videos):
    expected, captions = msvd(folder, videos, ".avi")
    write_pickle(
        folder / "raw-captions.pkl",
        {name: [said.split() for said in all_] for name, all_ in captions.items()},
    )
    return expected


@miniature("MSVD", "captions_msvd.json")
def msvd_json(folder, videos):
    expected, captions = msvd(folder, videos, ".mp4")
    write_text(
        folder / "captions_msvd.json",
        json.dumps({name: list(all_) for name, all_ in captions.items()}),
    )
    return expected


LSMDC_FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}


def lsmdc_clip(n):
    return f"{n:04d}_Paper_Kite_00.0{n % 10}.51.926-00.0{n % 10}.54.129"


@miniature("LSMDC", "LSMDC16")
def lsmdc_official(folder, videos):
    expected = {}
    for split, part in ids(videos, "train", "val", "test").items():
        expected[split] = {lsmdc_clip(n): sentences(n, 1) for n in part}
        times = "00.00.51.926\t00.00.54.129\t00.00.51.926\t00.00.54.129"
        write_text(
            folder / LSMDC_FILES[split],
            "\n".join(f"{name}\t{times}\t{said[0]}" for name, said in expected[split].items()),
        )
        for n in part:
            write_media(folder / f"{n:04d}_Paper_Kite" / f"{lsmdc_clip(n)}.avi", n)
    return expected


@miniature("LSMDC", "Frozen")
def lsmdc_frozen(folder, videos):
    numbers = ids(videos, "train", "val", "test")
    expected = {
        split: {lsmdc_clip(n): sentences(n, 1) for n in part} for split, part in numbers.items()
    }
    everyone = [n for part in numbers.values() for n in part]
    for split, clips in expected.items():
        write_text(folder / f"structured-symlinks/{split}_list.txt", "\n".join(clips))
    write_pickle(
        folder / "structured-symlinks/raw-captions.pkl",
        {lsmdc_clip(n): [sentence(n).split()] for n in everyone},
    )
    tars = [f"/somewhere/frames/{n:04d}_Paper_Kite_cut/{lsmdc_clip(n)}.tar" for n in everyone]
    write_text(folder / "frame_tar_list.txt", "\n".join(tars))
    for n in everyone:
        write_media(folder / f"videos/{n:04d}_Paper_Kite_cut/{lsmdc_clip(n)}.avi", n)
    return expected


def paragraph(n):
    return f"{sentence(n)} {sentence(n, 1)} {sentence(n, 2)}"


def didemo_rows(names):
    """Three rows a video, not contiguous, blanks around, the first video's last row under another extension."""
    rows = [
        {
            "annotation_id": 100 * k + n,
            "description": f" {sentence(n, k)}\n",
            "dl_link": "https://example.org",
            "num_segments": 6,
            "times": [[k, k]],
            "video": name,
        }
        for k in range(3)
        for n, name in names.items()
    ]
    rows[-len(names)]["video"] = rows[0]["video"].partition(".")[0] + ".mp4"
    return rows


@miniature("DiDeMo", "official")
def didemo_official(folder, videos):
    expected = {}
    suffixes, onto = (".mov", ".avi", ".", ".3gp"), ("", ".mp4", ".mp4", "stem")
    for split, part in ids(videos, "train", "val", "test").items():
        names = {
            n: f"1234567@N0{n}_36550842{n}_c8b58428fe{suffixes[i % 4]}" for i, n in enumerate(part)
        }
        expected[split] = {name.partition(".")[0]: (paragraph(n),) for n, name in names.items()}
        write_text(folder / f"{split}_data.json", json.dumps(didemo_rows(names)))
        write_text(folder / f"{split}_list.txt", "\n".join(names.values()))
        for i, (n, name) in enumerate(names.items()):
            stem = name.partition(".")[0] + ".mp4"
            write_media(
                folder / "videos" / (stem if onto[i % 4] == "stem" else name + onto[i % 4]),
                n,
                36,
                1,
                suffix=".mp4",
            )
    return expected


@miniature("DiDeMo", "VindLU")
def didemo_vindlu(folder, videos):
    expected = {}
    for split, part in ids(videos, "train", "val", "test").items():
        expected[split] = {f"clip{n}": (paragraph(n),) for n in part}
        rows = [
            {"video": f"clip{n}.mp4", "caption": [f"{sentence(n, k)} " for k in range(3)]}
            for n in part
        ]
        write_text(folder / f"didemo_ret_{split}.json", json.dumps(rows))
        for n in part:
            write_media(folder / f"clip{n}.mp4", n, 36, 1)
    return expected
