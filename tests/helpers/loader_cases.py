"""For each name of LOADERS: what writes a small data set of it -> its args (no split, no num_workers)."""

import json

from scripts.synthetic.miniatures import write_media, write_text


def jsonl(folder):
    rows = [
        {"path": str(write_media(folder / f"{i}.mp4", i)), "caption": f"number {i}"}
        for i in range(9)
    ]
    write_text(folder / "train.jsonl", "\n".join(map(json.dumps, rows)))
    return {
        "dataset_name": "JsonlDataset",
        "data_dir": str(folder),
        "batch_size": 2,
        "video_params": {"num_frames": 2, "input_res": 16},
    }


CASES = {"TextVideoDataLoader": jsonl, "MultiDistTextVideoDataLoader": jsonl}
