"""The config: bases, overrides, comments, freezing, registries, and the message of each mistake."""

import importlib
import json
import logging
import math
import pickle
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from parse_config import (
    REGISTRY_MODULES,
    Config,
    ConfigError,
    Registry,
    blank_comments,
    check_args,
    cli_entry,
    command_line,
    load_config,
    merge,
    resolve_config,
)
from trainer.config_check import stage_configs


def write_config_file(path, content):
    """Write `content`, JSON text or a dict, and return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text)
    return path


ROOT = Path(__file__).resolve().parent.parent
SHAPES = Registry("shape")


@SHAPES.register("Circle")
class Circle:
    """Round."""

    def __init__(self, radius: float, colour: str = "red", *, model=None):
        self.radius, self.colour, self.model = radius, colour, model


@SHAPES.register("Ring")
class Ring(Circle):
    """Round, with a hole.

    Further lines of the docstring are not listed.
    """

    def __init__(self, width: int = 1, **common):
        super().__init__(**common)
        self.width = width


def test_a_config_is_merged_over_its_base_and_a_changed_type_replaces(tmp_path):
    write_config_file(
        tmp_path / "base/a.json",
        {
            "loss": {"type": "A", "args": {"x": 1, "y": 2}},
            "trainer": {"epochs": 3, "seed": 1},
            "metrics": ["one", "two"],
        },
    )
    config = load_config(
        write_config_file(
            tmp_path / "b.json",
            {
                "base": "base/a.json",
                "loss": {"type": "A", "args": {"x": 5}},
                "trainer": {"epochs": 4},
                "metrics": ["three"],
            },
        )
    )
    assert config.to_dict() == {
        "loss": {"type": "A", "args": {"x": 5, "y": 2}},
        "trainer": {"epochs": 4, "seed": 1},
        "metrics": ["three"],
    }
    replaced = load_config(
        write_config_file(
            tmp_path / "c.json", {"base": "base/a.json", "loss": {"type": "B"}}
        )
    )
    assert replaced["loss"].to_dict() == {"type": "B"}
    with pytest.raises(ConfigError, match="own base"):
        load_config(write_config_file(tmp_path / "d.json", {"base": "d.json"}))


def test_another_base_takes_the_place_of_a_files_own(tmp_path):
    for name in "ab":
        write_config_file(tmp_path / f"{name}.json", {"name": name, "metrics": [name]})
    path = write_config_file(tmp_path / "c.json", {"base": "a.json", "name": "c"})
    config = load_config(path, [f"base={tmp_path / 'b.json'}", "trainer.epochs=3"])
    assert config.to_dict() == {
        "name": "c",
        "metrics": ["b"],
        "trainer": {"epochs": 3},
    }
    with pytest.raises(ConfigError, match="nowhere.json: no such config file"):
        load_config(path, ["base=nowhere.json"])
    with pytest.raises(ConfigError, match="a.json: names no base, so base="):
        load_config(tmp_path / "a.json", [f"base={path}"])


def test_merge_copies_its_arguments():
    base = {"a": {"b": [1, 2]}}
    merged = merge(base, {"a": {"c": 3}})
    merged["a"]["b"].append(3)
    assert base == {"a": {"b": [1, 2]}}
    assert merged == {"a": {"b": [1, 2, 3], "c": 3}}


def test_a_config_is_frozen_and_knows_its_json_path():
    config = Config({"a": {"b": [{"c": 1}]}})
    assert config["a"]["b"][0].json_path == "a.b.0"
    assert config.to_dict() == {"a": {"b": [{"c": 1}]}}
    with pytest.raises(AttributeError):
        config.a = 1
    with pytest.raises(TypeError):
        config["a"] = 1
    unpickled = pickle.loads(pickle.dumps(config["a"]))
    assert unpickled == config["a"]
    assert unpickled.json_path == "a"


def test_overrides_reach_objects_lists_and_every_entry_of_a_list(tmp_path):
    path = write_config_file(
        tmp_path / "c.json",
        {
            "data_loader": [{"args": {"batch_size": 1}}, {"args": {"batch_size": 2}}],
            "trainer": {},
        },
    )
    config = load_config(
        path,
        [
            "data_loader.args.batch_size=8",
            "data_loader.1.args.cut=full",
            "trainer.clip=1e-3",
            "trainer.flag=true",
            'metrics=["m"]',
            "loss.args.deep.er=null",
        ],
    )
    batch_sizes = [
        block["args"]["batch_size"] for block in config.blocks("data_loader")
    ]
    assert batch_sizes == [8, 8]
    assert config["data_loader"][1]["args"]["cut"] == "full"
    assert config["trainer"].to_dict() == {"clip": 1e-3, "flag": True}
    assert config["metrics"] == ("m",)
    assert config["loss"]["args"]["deep"]["er"] is None
    with pytest.raises(ConfigError, match="key.path=value"):
        load_config(path, ["trainer.epochs"])
    with pytest.raises(ConfigError, match="2 entries"):
        load_config(path, ["data_loader.7.args.cut=full"])
    with pytest.raises(ConfigError, match="plain value"):
        load_config(path, ["data_loader.0.args.batch_size.x=full"])


STAGED = {
    "name": "run",
    "optimizer": {"type": "AdamW", "args": {"lr": 1, "eps": 1e-6}},
    "trainer": {"epochs": 5},
    "stages": [
        {"name": "first", "trainer": {"epochs": 2}},
        {
            "optimizer": {"args": {"lr": 3}},
            "data_loader": [{"args": {"batch_size": 8}}],
        },
    ],
}


def resolved(path, *overrides):
    """(lr, epochs, name) of each stage as train.py resolves them."""
    values = []
    for stage in stage_configs(load_config(path, overrides)):
        lr = stage["optimizer"]["args"]["lr"]
        values.append((lr, stage["trainer"]["epochs"], stage["name"]))
    return values


def test_an_override_holds_in_every_stage(tmp_path):
    path = write_config_file(tmp_path / "c.json", STAGED)
    assert resolved(path) == [(1, 2, "first"), (3, 5, "run")]
    assert resolved(path, "optimizer.args.lr=0.5", "trainer.epochs=9") == [
        (0.5, 9, "first"),
        (0.5, 9, "run"),
    ]
    # the name of a stage is its own
    assert resolved(path, "name=other") == [(1, 2, "first"), (3, 5, "other")]


@pytest.mark.parametrize("reverse", [False, True])
def test_the_setting_of_one_stage_wins_over_that_of_all(tmp_path, reverse):
    path = write_config_file(tmp_path / "c.json", STAGED)
    overrides = ["optimizer.args.lr=0.5", "stages.1.optimizer.args.lr=0.7"]
    overrides = overrides[::-1] if reverse else overrides
    assert resolved(path, *overrides) == [(0.5, 2, "first"), (0.7, 5, "run")]


def test_the_flags_hold_in_every_stage(tmp_path):
    path = write_config_file(tmp_path / "c.json", STAGED)
    _, config = command_line("", ["-c", str(path), "--lr", "0.5", "--bs", "4"])
    assert [stage["optimizer"]["args"]["lr"] for stage in stage_configs(config)] == [
        0.5,
        0.5,
    ]
    assert config["stages"][1]["data_loader"][0]["args"]["batch_size"] == 4
    assert "data_loader" not in config


@pytest.mark.parametrize("reverse", [False, True])
def test_a_changed_type_on_the_command_line_replaces_its_block(tmp_path, reverse):
    path = write_config_file(tmp_path / "c.json", STAGED)
    overrides = ["optimizer.type=SGD", "optimizer.args.lr=0.1"]
    overrides = overrides[::-1] if reverse else overrides
    config = load_config(path, overrides)
    assert config["optimizer"].to_dict() == {"type": "SGD", "args": {"lr": 0.1}}
    same = load_config(path, ["optimizer.type=AdamW"])
    assert same["optimizer"].to_dict() == STAGED["optimizer"]


@pytest.mark.parametrize(
    "annotation, value, needed",
    [
        (Sequence[float], "x", "a list of float"),
        (Sequence[float], [1, "x"], "a list of float"),
        (Sequence[float] | None, 3, "a list of float or null"),
        (Sequence, "x", "a list"),
        (Mapping, [1], "an object {...}"),
        (float, math.inf, "a finite number"),
        (float, True, "float"),
        (int, 1.5, "int"),
        (int | str, None, "int or str"),
    ],
)
def test_values_are_checked_by_their_annotation(annotation, value, needed):
    def section(setting):
        return setting

    section.__annotations__["setting"] = annotation
    with pytest.raises(ConfigError) as error:
        check_args(section, {"setting": value}, "trainer")
    assert (
        str(error.value) == f"trainer.setting: {value!r} is given, {needed} is needed"
    )


MCQ = {
    "arch": {
        "type": "MCQ",
        "args": {"video_params": {"model": "Video_Bridge_Former", "num_frames": 1}},
    },
    "optimizer": {"type": "AdamW", "args": {"lr": 1e-4}},
    "trainer": {"epochs": 20, "schedule": [12, 16], "max_samples_per_epoch": 1000},
}


def test_a_config_of_mcq_is_read_in_our_words(tmp_path, caplog):
    config = load_config(write_config_file(tmp_path / "c.json", MCQ)).to_dict()
    assert config["arch"]["type"] == "MILES"
    video_params = config["arch"]["args"]["video_params"]
    assert video_params == {"model": "SpaceTimeTransformer", "num_frames": 1}
    assert config["trainer"] == {"epochs": 20, "max_samples_per_process": 1000}
    assert config["lr_scheduler"] == {
        "type": "MultiStep",
        "args": {"milestones": [12, 16], "gamma": 0.1},
    }
    for words in (
        "BridgeFormer and its questions are not",
        "trainer.schedule is MCQ's and read as lr_scheduler MultiStep with milestones [12, 16]",
        "max_samples_per_process 1000",
    ):
        assert words in caplog.text


def test_mcqs_schedule_beside_our_own_is_refused(tmp_path):
    both = {**MCQ, "lr_scheduler": {"type": "Cosine", "args": {}}}
    with pytest.raises(ConfigError, match="trainer.schedule: is MCQ's, and"):
        load_config(write_config_file(tmp_path / "c.json", both))


def test_variables_expand_and_unset_ones_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/somewhere")
    monkeypatch.delenv("NOT_SET", raising=False)
    path = write_config_file(
        tmp_path / "c.json",
        {
            "metrics": ["${DATA_ROOT}/x"],
            "trainer": {"save_dir": "${NOT_SET:-exps}"},
            "about": "${NOT_SET} is free text",
        },
    )
    assert load_config(path).to_dict() == {
        "metrics": ["/somewhere/x"],
        "trainer": {"save_dir": "exps"},
        "about": "${NOT_SET} is free text",
    }
    with pytest.raises(
        ConfigError, match="trainer.save_dir: the environment variable NOT_SET"
    ):
        load_config(path, ["trainer.save_dir=${NOT_SET}"])


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"name": 1,\n  "name" 2}', "line 2, column 10"),
        ('{"trainer": {"epochs": 1, "epochs": 2}}', "'epochs' stands twice"),
        ('{"trainr": {}}', "trainr: unknown key (nearest: trainer); known: about"),
        ("[1]", "an object"),
        ('// comment\n{"name": 1, /* two\nlines */ "name" 2}', "line 3, column 17"),
    ],
)
def test_broken_files_name_the_line_or_key(tmp_path, text, message):
    with pytest.raises(ConfigError) as error:
        load_config(write_config_file(tmp_path / "c.json", text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_json_may_hold_comments_but_strings_stay(tmp_path):
    text = """{
        // the run
        "metrics": ["http://x//y"], // behind a value
        "about": "a \\"quoted // text\\" and /* this */",
        /* "seed": 1,
           "seed": 2, */
        "trainer": {"epochs": 3 /* within */}
    }"""
    config = load_config(write_config_file(tmp_path / "c.json", text))
    assert config.to_dict() == {
        "metrics": ["http://x//y"],
        "about": 'a "quoted // text" and /* this */',
        "trainer": {"epochs": 3},
    }


def test_blanked_comments_keep_lines_and_columns():
    text = '{"a": 1, // one\n /* two\nthree */ "b": "//"}'
    blanked = blank_comments(text)
    assert blanked == '{"a": 1,       \n       \n         "b": "//"}'
    assert len(blanked) == len(text)


def test_the_schema_of_editors_is_dropped(tmp_path):
    write_config_file(tmp_path / "base.json", {"$schema": "schema.json", "seed": 1})
    path = write_config_file(
        tmp_path / "c.json",
        {"$schema": "../schema.json", "base": "base.json", "name": "x"},
    )
    assert load_config(path).to_dict() == {"seed": 1, "name": "x"}
    with pytest.raises(ConfigError, match=r"\$schem: unknown key"):
        load_config(path, ["$schem=x"])


def test_absent_file_names_the_nearest(tmp_path):
    write_config_file(tmp_path / "pretrain.json", {})
    with pytest.raises(
        ConfigError,
        match=r"pretrian.json: no such config file \(nearest: .*pretrain.json\)",
    ):
        load_config(tmp_path / "pretrian.json")


def test_legacy_keys_get_one_warning_each(tmp_path, caplog):
    path = write_config_file(
        tmp_path / "c.json",
        {
            "n_gpu": 8,
            "visualizer": {"type": ""},
            "trainer": {"neptune": False, "epochs": 1},
            "data_loader": [
                {
                    "args": {
                        "question": "noun",
                        "video_params": {"stride": 1, "num_frames": 4},
                    }
                },
                {"args": {"question": "verb", "text_params": {"input": "text"}}},
            ],
        },
    )
    with caplog.at_level(logging.WARNING):
        config = load_config(path)
    assert config.to_dict() == {
        "trainer": {"epochs": 1},
        "data_loader": [
            {"args": {"video_params": {"num_frames": 4}}},
            {"args": {"text_params": {}}},
        ],
    }
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 6
    assert sum("question" in warning for warning in warnings) == 1
    assert all("instead" in warning for warning in warnings)


def test_build_checks_against_the_constructor():
    circle = SHAPES.build(
        {"type": "Circle", "args": {"radius": 2}}, model="m", unused="u"
    )
    assert (circle.radius, circle.colour, circle.model) == (2, "red", "m")
    ring = SHAPES.build({"type": "Ring", "args": {"radius": 1.5, "width": 3}})
    assert (ring.radius, ring.width) == (1.5, 3)


@pytest.mark.parametrize(
    "spec, message",
    [
        (
            {"type": "Circel", "args": {}},
            "shape.type: 'Circel' is no shape (nearest: Circle); known: Circle, Ring",
        ),
        (
            {"type": "Circle", "args": {"radios": 1}},
            "shape.args.radios: unknown key (nearest: radius); known: colour",
        ),
        ({"type": "Circle", "args": {}}, "shape.args.radius: is missing"),
        (
            {"type": "Circle", "args": {"radius": "big"}},
            "shape.args.radius: 'big' is given, float is needed",
        ),
        (
            {"type": "Circle", "args": {"radius": 1, "model": 1}},
            "shape.args.model: unknown key",
        ),
        ({"type": "Circle", "argz": {}}, "shape.argz: unknown key (nearest: args)"),
        ({"args": {}}, 'shape: write {"type": ...'),
        (
            {"type": "Ring", "args": {"radius": 1, "width": 1.5}},
            "shape.args.width: 1.5 is given, int is needed",
        ),
        (
            {"type": "Ring", "args": {"radius": True}},
            "shape.args.radius: True is given",
        ),
    ],
)
def test_build_names_the_json_path(spec, message):
    with pytest.raises(ConfigError) as error:
        SHAPES.build(Config(spec, "shape"), model=None)
    assert message in str(error.value)


def test_optional_types_are_checked():
    def section(epochs: int | None = None, names: "str | None" = None):
        return epochs, names

    check_args(section, {"epochs": None, "names": "x"}, "trainer")
    with pytest.raises(
        ConfigError, match="trainer.epochs: 'x' is given, int or null is needed"
    ):
        check_args(section, {"epochs": "x"}, "trainer")
    with pytest.raises(ConfigError, match="trainer.names: 3 is given"):
        check_args(section, {"names": 3}, "trainer")


def test_command_line(tmp_path):
    path = write_config_file(
        tmp_path / "config.json",
        {"optimizer": {"args": {}}, "data_loader": {"args": {}}, "trainer": {}},
    )
    argv = [
        "-c",
        str(path),
        "trainer.epochs=2",
        "--lr",
        "0.1",
        "--bs",
        "4",
        "-d",
        "cpu",
    ]
    arguments, config = command_line("x", argv)
    assert arguments.device == "cpu"
    assert config.to_dict() == {
        "optimizer": {"args": {"lr": 0.1}},
        "data_loader": {"args": {"batch_size": 4}},
        "trainer": {"epochs": 2},
    }
    own = {"trainer": {"epochs": 3}, "optimizer": {"args": {"lr": 1}}}
    argv = ["-r", "x.pth", "--lr", "0.1"]
    _, config = command_line("x", argv, read_config=lambda path: {"x.pth": own}[path])
    assert config["trainer"].to_dict() == {"epochs": 3}
    assert config["optimizer"]["args"]["lr"] == 0.1
    with pytest.raises(ConfigError, match="x.pth does not say what config"):
        command_line("x", ["-r", "x.pth"], read_config=lambda path: {})
    with pytest.raises(ConfigError, match="-c CONFIG is missing"):
        command_line("x", ["-r", "auto"], read_config=lambda path: own)
    with pytest.raises(ConfigError, match="-c CONFIG is missing"):
        command_line("x", [])


def test_list_needs_no_config_and_prints_names_with_their_summaries(capsys):
    with pytest.raises(SystemExit) as end:
        command_line("x", ["--list"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("shape:") + 1].split() == ["Circle", "Round."]
    assert lines[lines.index("shape:") + 2].split() == [
        "Ring",
        "Round,",
        "with",
        "a",
        "hole.",
    ]


def test_list_knows_every_module_with_a_registry():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder in ("data_loader", "model", "trainer")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^[A-Z_]+ = Registry\(", path.read_text(), re.MULTILINE)
    }
    assert modules == set(REGISTRY_MODULES)


def test_a_mistake_ends_a_command_with_one_line(capsys):
    @cli_entry
    def main():
        raise ConfigError("a: b\nc")

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: a: b c\n"


def test_every_thread_sees_the_whole_registry(tmp_path, monkeypatch):
    package = tmp_path / "slow_components"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from parse_config import Registry\nCOMPONENTS = Registry('component', __name__)\n"
    )
    for name in ("a", "b"):
        (package / f"{name}.py").write_text(
            "import time\nfrom slow_components import COMPONENTS\ntime.sleep(0.1)\n"
            f"COMPONENTS.register('{name}')(dict)\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    components = importlib.import_module("slow_components").COMPONENTS
    with ThreadPoolExecutor(4) as pool:
        listings = [pool.submit(components.names) for _ in range(4)]
    assert [listing.result() for listing in listings] == [["a", "b"]] * 4


@pytest.mark.parametrize("base", ["3", "null", "[3]", '{"a": 1}'])
def test_a_base_that_is_no_file_name_is_refused(tmp_path, base):
    (tmp_path / "config.json").write_text(f'{{"base": {base}}}')
    with pytest.raises(ConfigError, match="base: .* is given, a file name"):
        load_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("arch.args=3", "arch.args: 3 is given, an object {...} or null is needed"),
        ("arch.args=[]", "arch.args: [] is given, an object"),
        ("arch.args.video_params=[1]", "arch.args.video_params: [1] is given"),
        ("arch.args.text_params=x", "arch.args.text_params: 'x' is given"),
        ("arch.args.text_params.model=3", "arch.args.text_params.model: 3 is given"),
        ("arch.args.load_checkpoint=3", "arch.args.load_checkpoint: 3 is given"),
        ("objective.type={}", "objective.type: {} is given, str is needed"),
        ("loss.args=x", "loss.args: 'x' is given"),
        ("data_loader.args=3", "data_loader.args: 3 is given"),
        ("data_loader.args.video_params=3", "data_loader.args.video_params: 3"),
        ('data_loader=[{"args": 3}]', "data_loader.0.args: 3 is given"),
        ("valid_loader.args=3", "valid_loader.args: 3 is given"),
        ("evaluation.data_loader=3", "evaluation.data_loader: 3 is given"),
        ("evaluation.data_loader=[3]", "evaluation.data_loader: [3] is given"),
        ("evaluation.data_loader.args=4", "evaluation.data_loader.args: 4 is given"),
        ('stages=[{"arch": {"args": 3}}]', "stages.0.arch.args: 3 is given"),
    ],
)
def test_a_block_of_another_type_is_refused_before_it_is_read(setting, message):
    with pytest.raises(ConfigError) as error:
        resolve_config({"name": "n"}, [setting])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", [{}, {"a": 1}, [1], None, 3])
def test_a_type_that_is_no_text_is_none_that_is_known(name):
    components = Registry("thing")
    with pytest.raises(ConfigError, match="things.type: .* is no thing"):
        components.get(Config({"type": name})["type"], "things.type")


def test_the_folder_of_a_run_is_set_for_all_of_its_stages():
    stage = {"trainer": {"epochs": 1}}
    config = resolve_config(
        {"name": "n", "stages": [stage, stage]}, ["trainer.save_dir=runs"]
    )
    assert config["trainer"]["save_dir"] == "runs"
    folders = [stage["trainer"]["save_dir"] for stage in stage_configs(config)]
    assert folders == ["runs", "runs"]


def test_a_stage_has_no_folder_of_its_own():
    data = {"name": "n", "stages": [{}, {"trainer": {"save_dir": "elsewhere"}}]}
    with pytest.raises(
        ConfigError, match="stages.1.trainer.save_dir: .* set trainer.save_dir"
    ):
        stage_configs(resolve_config(data))


def test_what_a_stage_knows_is_listed_without_what_it_does_not():
    with pytest.raises(ConfigError, match="stages.0.stages: unknown key") as error:
        stage_configs(resolve_config({"name": "n", "stages": [{"stages": []}]}))
    known = str(error.value).split("known: ")[1].split(", ")
    assert "trainer" in known
    assert not {"stages", "base"} & set(known)
