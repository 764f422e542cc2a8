"""The config: bases, overrides, freezing, and what each mistake says."""

import importlib
import json
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from parse_config import (
    Config,
    ConfigError,
    Registry,
    check_args,
    cli_entry,
    command_line,
    load_config,
    merge,
)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


SHAPES = Registry("shape")


@SHAPES.register("Circle")
class Circle:
    def __init__(self, radius: float, colour: str = "red", *, model=None):
        self.radius, self.colour, self.model = radius, colour, model


@SHAPES.register("Ring")
class Ring(Circle):
    def __init__(self, width: int = 1, **common):
        super().__init__(**common)
        self.width = width


def test_base_is_laid_under_and_a_changed_type_replaces(tmp_path):
    write(
        tmp_path / "base/a.json",
        {
            "loss": {"type": "A", "args": {"x": 1, "y": 2}},
            "trainer": {"epochs": 3, "seed": 1},
            "metrics": ["one", "two"],
        },
    )
    same = load_config(
        write(
            tmp_path / "b.json",
            {
                "base": "base/a.json",
                "loss": {"type": "A", "args": {"x": 5}},
                "trainer": {"epochs": 4},
                "metrics": ["three"],
            },
        )
    )
    assert same.to_dict() == {
        "loss": {"type": "A", "args": {"x": 5, "y": 2}},
        "trainer": {"epochs": 4, "seed": 1},
        "metrics": ["three"],
    }
    other = load_config(write(tmp_path / "c.json", {"base": "base/a.json", "loss": {"type": "B"}}))
    assert other["loss"].to_dict() == {"type": "B"}
    with pytest.raises(ConfigError, match="own base"):
        load_config(write(tmp_path / "d.json", {"base": "d.json"}))


def test_lay_does_not_touch_what_it_was_given():
    under = {"a": {"b": [1, 2]}}
    laid = merge(under, {"a": {"c": 3}})
    laid["a"]["b"].append(3)
    assert under == {"a": {"b": [1, 2]}} and laid == {"a": {"b": [1, 2, 3], "c": 3}}


def test_frozen_and_knows_its_place():
    config = Config({"a": {"b": [{"c": 1}]}})
    assert config["a"]["b"][0].json_path == "a.b.0" and config.to_dict() == {"a": {"b": [{"c": 1}]}}
    with pytest.raises(AttributeError):
        config.a = 1
    with pytest.raises(TypeError):
        config["a"] = 1
    again = pickle.loads(pickle.dumps(config["a"]))
    assert again == config["a"] and again.json_path == "a"


def test_overrides_reach_objects_lists_and_every_entry_of_a_list(tmp_path):
    path = write(
        tmp_path / "c.json",
        {"data_loader": [{"args": {"batch_size": 1}}, {"args": {"batch_size": 2}}], "trainer": {}},
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
    assert [b["args"]["batch_size"] for b in config.blocks("data_loader")] == [8, 8]
    assert config["data_loader"][1]["args"]["cut"] == "full"
    assert config["trainer"].to_dict() == {"clip": 1e-3, "flag": True} and config["metrics"] == (
        "m",
    )
    assert config["loss"]["args"]["deep"]["er"] is None
    with pytest.raises(ConfigError, match="key.path=value"):
        load_config(path, ["trainer.epochs"])
    with pytest.raises(ConfigError, match="2 entries"):
        load_config(path, ["data_loader.7.args.cut=full"])
    with pytest.raises(ConfigError, match="plain value"):
        load_config(path, ["data_loader.0.args.batch_size.x=full"])


def test_variables_expand_and_unset_ones_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/somewhere")
    monkeypatch.delenv("NOT_SET", raising=False)
    path = write(
        tmp_path / "c.json",
        {
            "name": "${DATA_ROOT}/x",
            "trainer": {"save_dir": "${NOT_SET:-exps}"},
            "about": "${NOT_SET} is free text",
        },
    )
    assert load_config(path).to_dict() == {
        "name": "/somewhere/x",
        "trainer": {"save_dir": "exps"},
        "about": "${NOT_SET} is free text",
    }
    with pytest.raises(ConfigError, match="trainer.save_dir: the environment variable NOT_SET"):
        load_config(path, ["trainer.save_dir=${NOT_SET}"])


@pytest.mark.parametrize(
    "text, says",
    [
        ('{"name": 1,\n  "name" 2}', "line 2, column 10"),
        ('{"trainer": {"epochs": 1, "epochs": 2}}', "'epochs' stands twice"),
        ('{"trainr": {}}', "trainr: unknown key (nearest: trainer); known: about"),
        ("[1]", "an object"),
    ],
)
def test_broken_files_say_where(tmp_path, text, says):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path / "c.json", text))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_absent_file_names_the_nearest(tmp_path):
    write(tmp_path / "pretrain.json", {})
    with pytest.raises(
        ConfigError, match=r"pretrian.json: no such config file \(nearest: .*pretrain.json\)"
    ):
        load_config(tmp_path / "pretrian.json")


def test_family_keys_get_one_warning_each(tmp_path, caplog):
    path = write(
        tmp_path / "c.json",
        {
            "n_gpu": 8,
            "visualizer": {"type": ""},
            "trainer": {"neptune": False, "epochs": 1},
            "data_loader": [
                {"args": {"question": "noun", "video_params": {"stride": 1, "num_frames": 4}}},
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
    said = [record.message for record in caplog.records]
    assert (
        len(said) == 6
        and sum("question" in line for line in said) == 1
        and all("instead" in line for line in said)
    )


def test_build_checks_against_the_constructor():
    circle = SHAPES.build({"type": "Circle", "args": {"radius": 2}}, model="m", unused="u")
    assert (circle.radius, circle.colour, circle.model) == (2, "red", "m")
    ring = SHAPES.build({"type": "Ring", "args": {"radius": 1.5, "width": 3}})
    assert (ring.radius, ring.width) == (1.5, 3)


@pytest.mark.parametrize(
    "spec, says",
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
        ({"type": "Circle", "args": {"radius": 1, "model": 1}}, "shape.args.model: unknown key"),
        ({"type": "Circle", "argz": {}}, "shape.argz: unknown key (nearest: args)"),
        ({"args": {}}, 'shape: write {"type": ...'),
        (
            {"type": "Ring", "args": {"radius": 1, "width": 1.5}},
            "shape.args.width: 1.5 is given, int is needed",
        ),
        ({"type": "Ring", "args": {"radius": True}}, "shape.args.radius: True is given"),
    ],
)
def test_build_names_the_place(spec, says):
    with pytest.raises(ConfigError) as caught:
        SHAPES.build(Config(spec, "shape"), model=None)
    assert says in str(caught.value)


def test_optional_types_are_checked():
    def section(epochs: int | None = None, names: "str | None" = None):
        return epochs, names

    check_args(section, {"epochs": None, "names": "x"}, "trainer")
    with pytest.raises(ConfigError, match="trainer.epochs: 'x' is given, None or int is needed"):
        check_args(section, {"epochs": "x"}, "trainer")
    with pytest.raises(ConfigError, match="trainer.names: 3 is given"):
        check_args(section, {"names": 3}, "trainer")


def test_command_line(tmp_path):
    path = write(
        tmp_path / "config.json",
        {"optimizer": {"args": {}}, "data_loader": {"args": {}}, "trainer": {}},
    )
    given = ["-c", str(path), "trainer.epochs=2", "--lr", "0.1", "--bs", "4", "-d", "cpu"]
    arguments, config = command_line("x", given)
    assert arguments.device == "cpu" and config.to_dict() == {
        "optimizer": {"args": {"lr": 0.1}},
        "data_loader": {"args": {"batch_size": 4}},
        "trainer": {"epochs": 2},
    }
    _, beside = command_line("x", ["-r", str(tmp_path / "checkpoint.pth")])
    assert beside["trainer"].to_dict() == {}
    with pytest.raises(ConfigError, match="-c CONFIG is missing"):
        command_line("x", [])


def test_command_ends_with_one_line(capsys):
    @cli_entry
    def main():
        raise ConfigError("a: b\nc")

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and capsys.readouterr().err == "error: a: b c\n"


def test_every_thread_sees_the_whole_registry(tmp_path, monkeypatch):
    package = tmp_path / "slow_things"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from parse_config import Registry\nTHINGS = Registry('thing', __name__)\n"
    )
    for name in ("a", "b"):
        (package / f"{name}.py").write_text(
            "import time\nfrom slow_things import THINGS\ntime.sleep(0.1)\n"
            f"THINGS.register('{name}')(dict)\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    things = importlib.import_module("slow_things").THINGS
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: things.names(), range(4))) == [["a", "b"]] * 4
