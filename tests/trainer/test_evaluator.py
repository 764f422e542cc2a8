"""The exam on a model of few numbers: what is embedded, how often, what the rows are, what is kept and printed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from model.metric import METRICS, t2v_metrics, v2t_metrics
from parse_config import Config, ConfigError, UserError
from trainer.evaluation import results as result_files
from trainer.evaluation.published import published
from trainer.evaluation.rescoring import ROWS
from trainer.evaluation.results import load_embeddings, new_folder
from trainer.evaluation.table import table
from trainer.evaluator import (
    Embeddings,
    EvaluationSettings,
    embed,
    evaluate,
    evaluation_settings,
    score,
)
from trainer.summary import validation_gallery

E = 6


class Toy(nn.Module):
    """A clip is its own embedding (in its first pixels), a caption the one of its number; counts what it embeds."""

    def __init__(self, text_CE):
        super().__init__()
        self.text_CE, self.scale, self.clips, self.texts = (
            text_CE,
            nn.Parameter(torch.ones(1)),
            [],
            [],
        )

    def encode_video(self, video_BTCHW):
        assert not self.training and not torch.is_grad_enabled()
        self.clips += [len(video_BTCHW)]
        return video_BTCHW[:, 0, 0, 0, :E] * self.scale, None

    def tokenize(self, captions):
        return {
            "number": torch.tensor([int(caption.split()[-1]) for caption in captions])
        }

    def encode_text(self, tokens):
        self.texts += tokens["number"].tolist()
        return self.text_CE[tokens["number"]]


class Loader:
    """Batches of two clips; `broken` ones cannot be read."""

    def __init__(self, video_VE, owner, broken=(), **dataset):
        self.video_VE, self.broken = video_VE, set(broken)
        self.dataset = _Set(video_VE, owner, dataset)

    def _clip(self, index):
        clip = torch.zeros(1, 1, 1, 8)
        clip[0, 0, 0, :E] = self.video_VE[index]
        return clip

    def epoch(self, epoch=0, start=0):
        for part in torch.arange(len(self.video_VE)).split(2):
            metas = [
                {"index": int(i), "path": f"{i}.mp4", "failures": []} for i in part
            ]
            good = [meta for meta in metas if meta["index"] not in self.broken]
            clips = [self._clip(meta["index"]) for meta in good]
            yield {
                "video": torch.stack(clips) if clips else torch.empty(0, 1, 1, 1, 8),
                "text": None,
                "meta": good,
                "unreadable": [meta for meta in metas if meta["index"] in self.broken],
            }

    def windows(self, stride):
        for index in range(len(self.video_VE)):
            meta = {"index": index, "path": f"{index}.mp4"}
            clip = self._clip(index)
            yield {
                "video": None
                if index in self.broken
                else torch.stack([clip, clip + stride]),
                "meta": meta,
            }


class _Set:
    protocol, split, manifest_hash, validates_on_test = (
        "msrvtt-1k-A",
        "test",
        "abc",
        False,
    )
    video = SimpleNamespace(num_frames=4, input_res=224)

    def __init__(self, video_VE, owner, more):
        self.count, self.owner = len(video_VE), torch.as_tensor(owner)
        self.captions = [f"caption {i}" for i in range(len(owner))]
        self.ids = [f"v{i}" for i in range(self.count)]
        self.counts = {
            "num_videos": self.count,
            "num_captions": len(owner),
            "expected_videos": self.count,
            "expected_captions": len(owner),
            "missing": [],
        }
        vars(self).update(more)

    def __len__(self):
        return self.count


def world(captions=23, videos=9, seed=0, **more):
    made = torch.Generator().manual_seed(seed)
    video_VE = torch.randn(videos, E, generator=made)
    owner = torch.randint(videos, (captions,), generator=made)
    text_CE = video_VE[owner] + torch.randn(captions, E, generator=made)
    return Toy(text_CE), Loader(video_VE, owner, **more)


def cosines(model, loader):
    return normalize(model.text_CE.double()) @ normalize(loader.video_VE.double()).T


def test_everything_is_embedded_once_and_the_numbers_are_the_metrics():
    model, loader = world()
    model.train()
    before = torch.get_rng_state()
    results = evaluate(model, loader, "cpu")
    assert model.training and torch.equal(torch.get_rng_state(), before), (
        "the run that it interrupts goes on as it was"
    )
    assert sum(model.clips) == 9 and sorted(model.texts) == list(range(23))
    sims, owner = cosines(model, loader), loader.dataset.owner
    own = torch.zeros_like(sims, dtype=torch.bool)
    assert results["t2v"] == t2v_metrics(sims, owner, own) and results[
        "v2t"
    ] == v2t_metrics(sims, owner)
    assert (results["num_captions"], results["num_videos"], results["stamp"]) == (
        23,
        9,
        "complete",
    )
    assert (
        results["protocol"] == "msrvtt-1k-A"
        and results["rows"]["raw"]["t2v"] == results["t2v"]
    )
    for way in ("t2v", "v2t"):
        assert set(results["intervals"][way]) == set(results[way])
        assert all(
            low <= results[way][name] <= high
            for name, (low, high) in results["intervals"][way].items()
        )
    json.dumps(results, allow_nan=False)


def test_on_the_cpu_each_goes_alone_and_so_batches_change_nothing():
    model, loader = world()
    evaluate(model, loader, "cpu")
    assert set(model.clips) == {1}


def test_unreadable_videos_leave_with_their_captions_and_the_result_says_so():
    model, loader = world(broken=(2, 3, 8))
    results = evaluate(model, loader, "cpu", settings=EvaluationSettings(stride=1))
    kept = [0, 1, 4, 5, 6, 7]
    rows = torch.isin(loader.dataset.owner, torch.tensor(kept))
    owner = torch.tensor([kept.index(i) for i in loader.dataset.owner[rows].tolist()])
    sims = cosines(model, loader)[rows][:, kept]
    assert t2v_metrics(sims, owner).items() <= results["t2v"].items() and results[
        "v2t"
    ] == v2t_metrics(sims, owner)
    assert results["stamp"] == f"6 of 9 videos, {rows.sum()} of 23 captions"
    assert (
        results["coverage"]["missing"] == ["2.mp4", "3.mp4", "8.mp4"]
        and results["num_videos"] == 6
    )
    with pytest.raises(ValueError, match="none of the 9 videos"):
        evaluate(*world(broken=range(9)), "cpu")


def test_nan_is_an_error():
    model, loader = world()
    loader.video_VE[3, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        evaluate(model, loader, "cpu")


def test_rows_are_beside_the_headline_and_as_their_twins():
    model, loader = world(captions=60, videos=30)
    bank_BE = torch.randn(40, E, generator=torch.Generator().manual_seed(5))
    model.text_CE = torch.cat([model.text_CE, bank_BE])
    settings = EvaluationSettings(
        rows=["dsl", {"type": "qbnorm", "args": {"temperature": 0.1}}], stride=2
    )
    results = evaluate(
        model,
        loader,
        "cpu",
        settings=settings,
        bank=[f"bank {60 + i}" for i in range(40)],
    )
    plain = evaluate(model, loader, "cpu")
    assert results["t2v"] == plain["t2v"] and results["v2t"] == plain["v2t"], (
        "the headline is raw"
    )
    rows, owner = results["rows"], loader.dataset.owner
    assert list(rows) == ["raw", "tta", "dsl", "qbnorm"] and "v2t" not in rows["qbnorm"]
    model.text_CE = model.text_CE[:60]
    sims = cosines(model, loader)
    moved = (
        normalize(model.text_CE.double()) @ normalize(loader.video_VE.double() + 1).T
    )
    assert rows["tta"]["t2v"] == t2v_metrics(moved, owner) and rows["tta"][
        "v2t"
    ] == v2t_metrics(moved, owner)
    assert rows["dsl"]["t2v"] == t2v_metrics(sims * (sims / 0.05).softmax(0), owner)
    assert rows["dsl"]["v2t"] == v2t_metrics(sims * (sims / 0.05).softmax(1), owner)
    bank = (normalize(bank_BE.double()) @ normalize(loader.video_VE.double()).T).numpy()
    assert rows["qbnorm"]["t2v"] == t2v_metrics(
        dynamic_inverted_softmax(sims.numpy(), bank, 10), owner
    )
    assert len({row["t2v"]["MeanR"] for row in rows.values()}) == 4, (
        "the test tells the rows apart"
    )


def dynamic_inverted_softmax(sims, bank, beta):
    """QB-Norm by its definition."""
    popular = set(bank.argmax(1))
    total = np.exp(beta * bank).sum(0)
    out = sims.copy()
    for i, row in enumerate(sims):
        if row.argmax() in popular:
            out[i] = np.exp(beta * row) / total
    return out


@pytest.mark.parametrize("name", [name for name in ROWS.names() if name != "raw"])
def test_a_constant_model_gains_by_no_row(name):
    model, loader = world(captions=18, videos=9)
    model.text_CE, loader.video_VE = torch.ones(30, E) * 0.3, torch.ones(9, E) * 0.7
    results = evaluate(
        model,
        loader,
        "cpu",
        settings=EvaluationSettings(rows=[name], stride=1),
        bank=[f"bank {i}" for i in range(18, 30)],
    )
    row = results["rows"][name]
    assert row["t2v"] == {
        key: pytest.approx(results["chance"]["t2v"][key]) for key in row["t2v"]
    }
    assert row["t2v"]["MedR"] == 5
    assert row["t2v"]["R5"] == pytest.approx(500 / 9)
    if "v2t" in row:
        assert row["v2t"] == pytest.approx(results["chance"]["v2t"])
    assert results["t2v"] == pytest.approx(results["chance"]["t2v"]), "mAP too"


def test_qbnorm_does_not_depend_on_the_order_of_tied_videos():
    """Two equal videos are the best of every bank caption and query: either order of them gives the same."""
    video_VE = torch.tensor([[1.0, 0.1], [1.0, 0.1], [0.2, 1.0], [-1.0, 0.3]])
    text_CE = torch.tensor([[1.0, 0.0], [0.9, 0.5], [0.1, 1.0], [-1.0, 0.0]])
    bank_BE = torch.tensor([[1.0, 0.05], [0.95, 0.2]])
    rows = []
    for order in ([0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0]):
        position = torch.tensor(order).argsort()
        embeddings = Embeddings(
            text_CE=text_CE,
            video_VE=video_VE[order],
            captions=list("abcd"),
            ids=list("wxyz"),
            owner_C=position[torch.arange(4)],
            bank_BE=bank_BE,
        )
        counts, _ = ROWS.build({"type": "qbnorm"})(embeddings, torch.device("cpu"))
        rows.append((counts.ranks().tolist(), counts.hits(1).tolist()))
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize("row", ["dsl", "qbnorm"])
@pytest.mark.parametrize("temperature", [0, -0.05, 1e-39, float("nan"), float("inf")])
def test_a_temperature_that_gives_no_scores_is_refused(row, temperature):
    with pytest.raises(ConfigError, match=f"{row}: .*temperature"):
        ROWS.build({"type": row, "args": {"temperature": temperature}})


def test_small_galleries_are_printed_with_chance_and_few_queries_with_a_warning():
    results = evaluate(*world(), "cpu")
    assert results["queries"] == {"t2v": 23, "v2t": results["queries"]["v2t"]}
    text = table(results)
    lines = [line.split() for line in text.splitlines() if "chance" in line]
    assert [line[1] for line in lines] == [
        "11.11",
        f"{results['chance']['v2t']['R1']:.2f}",
    ]
    assert "warning: few queries (23 of t2v and 9 of v2t)" in text
    model, loader = world(captions=1100, videos=1050)
    results = evaluate(model, loader, "cpu", settings=EvaluationSettings(resamples=0))
    text = table(results)
    assert "chance" not in text and "warning" not in text
    assert results["chance"]["t2v"]["R1"] == pytest.approx(100 / 1050)


def test_recognition_is_video_to_text_over_averaged_prompts():
    classes, prompts = ["c 0", "c 1", "c 2", "c 3", "c 4", "c 5", "c 6"], ["{}", "a {}"]
    model, loader = world(captions=7, videos=20, classes=classes)
    loader.dataset.labels = torch.randint(
        7, (20,), generator=torch.Generator().manual_seed(1)
    )
    loader.video_VE += 2 * model.text_CE[loader.dataset.labels]
    results = evaluate(
        model, loader, "cpu", settings=EvaluationSettings(prompts=prompts, stride=3)
    )
    assert sorted(model.texts) == sorted(2 * list(range(7)))
    sims = normalize(loader.video_VE.double()) @ normalize(model.text_CE.double()).T
    order = sims.argsort(1, descending=True)
    right = order == loader.dataset.labels[:, None]
    assert results["recognition"] == {
        "top1": 100 * right[:, :1].sum().item() / 20,
        "classes": 7,
        "top5": 100 * right[:, :5].sum().item() / 20,
    }
    assert 0 < results["recognition"]["top1"] < 100
    assert "t2v" not in results and (
        results["num_captions"],
        results["num_videos"],
    ) == (7, 20)
    assert results["prompts"] == prompts and set(results["rows"]) == {"raw", "tta"}
    assert "top-1" in table(results)
    with pytest.raises(ConfigError, match="'dsl' is for retrieval"):
        evaluate(model, loader, "cpu", settings=EvaluationSettings(rows=["dsl"]))


def test_constant_embeddings_recognise_as_often_as_chance():
    classes = [f"c {i}" for i in range(7)]
    model, loader = world(captions=7, videos=20, classes=classes)
    loader.dataset.labels = torch.arange(20) % 7
    model.text_CE, loader.video_VE = torch.ones(7, E), torch.full((20, E), 0.3)
    settings = EvaluationSettings(prompts=["{}"], stride=1)
    results = evaluate(model, loader, "cpu", settings=settings)
    assert results["recognition"]["top1"] == pytest.approx(100 / 7)
    assert results["recognition"]["top5"] == pytest.approx(500 / 7)
    assert results["v2t"] == pytest.approx(results["chance"]["v2t"])
    assert results["rows"]["tta"]["v2t"] == results["v2t"]
    assert "  chance" in table(results) and "few queries (20 of v2t)" in table(results)
    lines = validation_gallery(loader.dataset)
    assert lines[0].startswith("chance among 7 classes: R1 14.3, R5 71.4")
    assert "few queries (20 of v2t)" in lines[1]


@pytest.mark.parametrize("videos, small", [(999, True), (1000, False)])
def test_the_validation_gallery_is_introduced_with_chance(videos, small):
    owner = torch.arange(videos)
    lines = validation_gallery(Loader(torch.zeros(videos, E), owner).dataset)
    assert len(lines) == small
    if small:
        assert "text to video: R1 0.1, R5 0.5, R10 1.0, MedR 500.0" in lines[0]


def test_other_metrics_come_along():
    METRICS.register("largest")(lambda sims, owner=None: {"value": float(sims.max())})
    model, loader = world()
    results = evaluate(
        model, loader, "cpu", metrics=("t2v_metrics", "v2t_metrics", "largest")
    )
    del METRICS._entries["largest"]
    assert results["other_metrics"]["largest"]["value"] == pytest.approx(
        float(cosines(model, loader).max())
    )
    with pytest.raises(ConfigError, match="metrics: 'larges' is no metric"):
        evaluate(model, loader, "cpu", metrics=("larges",))


def test_embeddings_kept_and_taken_up_again_give_the_same_numbers(tmp_path):
    model, loader = world()
    found = embed(model, loader, "cpu", stride=1, bank=["bank 3", "bank 7"])
    rows = ["tta", "dsl", "qbnorm"]
    result_files.save_embeddings(
        tmp_path / "kept",
        found,
        {"config": {"name": "x"}, "checkpoint": None, "date": "today"},
    )
    again, about = load_embeddings(tmp_path / "kept")
    assert score(again, "cpu", rows=rows) == score(found, "cpu", rows=rows)
    assert about == {"checkpoint": None, "date": "today"}
    with pytest.raises(FileExistsError):
        result_files.save_embeddings(tmp_path / "kept", found, {"config": {}})
    with pytest.raises(FileNotFoundError, match="--save-embeddings"):
        load_embeddings(tmp_path)
    (tmp_path / "kept/embeddings.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="damaged"):
        load_embeddings(tmp_path / "kept")


def test_ranks_of_each_query(tmp_path):
    model, loader = world()
    loader.dataset.owner[loader.dataset.owner == 4] = (
        5  # a video without captions asks nothing
    )
    found = embed(model, loader, "cpu")
    result_files.save_ranks(tmp_path / "ranks.jsonl", found, torch.device("cpu"))
    lines = [
        json.loads(line) for line in (tmp_path / "ranks.jsonl").read_text().splitlines()
    ]
    there, back = (
        [line for line in lines if line["direction"] == way] for way in ("t2v", "v2t")
    )
    asked = sorted(set(loader.dataset.owner.tolist()))
    assert len(there) == 23 and [line["query"] for line in back] == [
        f"v{i}" for i in asked
    ]
    sims = cosines(model, loader)
    for i, line in enumerate(there):
        best = sims[i].argsort(descending=True)
        assert [name for name, _ in line["top"]] == [f"v{j}" for j in best.tolist()]
        assert line["right"] == f"v{loader.dataset.owner[i]}"
        assert line["top"][int(line["rank"]) - 1][0] == line["right"]
    for video, line in zip(asked, back):
        best = sims[:, video].argsort(descending=True)[:10]
        assert [name for name, _ in line["top"]] == [
            f"caption {j}" for j in best.tolist()
        ]
        assert line["rank"] == 1 + min(
            sims[:, video].argsort(descending=True).tolist().index(i)
            for i in (loader.dataset.owner == video).nonzero()[:, 0].tolist()
        )


def test_nothing_is_overwritten(tmp_path):
    folders = {new_folder(tmp_path / "run") for _ in range(3)}
    assert len(folders) == 3
    result_files.write_new_json(tmp_path / "results.json", {"a": 1})
    with pytest.raises(UserError, match="stays as it is"):
        result_files.write_new_json(tmp_path / "results.json", {"a": 2})
    assert json.loads((tmp_path / "results.json").read_text()) == {"a": 1}


def test_the_table_names_protocol_rows_and_what_is_published():
    model, loader = world()
    results = evaluate(model, loader, "cpu", settings=EvaluationSettings(rows=["dsl"]))
    text = table(results, compare=True)
    assert text.isascii() and max(map(len, text.splitlines())) <= 100
    assert text.startswith("msrvtt-1k-A: 23 captions x 9 videos, complete")
    assert (
        "MILES zero-shot   t2v      26.10    47.20    56.90" in text
        and "not measured here" in text
    )
    assert "dsl: dual softmax" in text and "v2t" not in table(results, ("t2v_metrics",))
    loader.dataset.protocol = None
    assert "the paper has no row" in table(evaluate(model, loader, "cpu"), compare=True)


def test_published_rows():
    assert dict(published("msvd-paragraph")[0])["MILES zero-shot"]["R1"] == 44.4
    assert "which MSVD protocol" in published("msvd-one-caption")[1]
    assert published("msrvtt-full") == published(None) == ([], "")
    didemo = dict(published("didemo-paragraph")[0])
    assert didemo["Frozen fine-tuned"] == {
        "R1": 31.0,
        "R5": 59.8,
        "R10": 72.4,
        "MedR": 3,
    }


@pytest.mark.parametrize(
    "section, words",
    [
        ({"row": ["dsl"]}, "evaluation.row: unknown key .nearest: rows"),
        ({"stride": 0}, "evaluation.stride: 0 is given"),
        ({"prompts": ["a person"]}, "needs one {}"),
        ({"rows": "dsl"}, "evaluation.rows: .dsl. is given, a list is needed"),
    ],
)
def test_the_section_is_checked(section, words):
    with pytest.raises(ConfigError, match=words):
        evaluation_settings(Config({"evaluation": section}))


def test_a_row_that_cannot_be_had_says_why():
    model, loader = world()
    found = embed(model, loader, "cpu")
    for rows, words in (
        (["tta"], "-s STRIDE"),
        (["qbnorm"], "bank"),
        (["dls"], "nearest: dsl"),
        ([{"type": "dsl", "args": {"temprature": 1}}], "nearest: temperature"),
    ):
        with pytest.raises(ConfigError, match=words):
            score(found, "cpu", rows=rows)
