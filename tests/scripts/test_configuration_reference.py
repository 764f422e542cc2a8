"""docs/configuration.md and configs/schema.json: current, complete, and right about our configs and about mistakes."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from parse_config import load_config
from scripts import configuration_reference as reference

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    path for path in (ROOT / "configs").rglob("*.json") if path.name != "schema.json"
)
OURS = [
    path for path in CONFIGS if path.name != "zero_msrvtt_4f_i21k_MILES.json"
]  # as released
VALIDATOR = jsonschema.Draft202012Validator(reference.schema())


def mistakes(config: dict) -> list[str]:
    """Dotted keys at which the schema is not met, the deepest of each alternative."""
    errors = [
        jsonschema.exceptions.best_match([error])
        for error in VALIDATOR.iter_errors(config)
    ]
    return [".".join(map(str, error.absolute_path)) for error in errors]


def test_the_files_are_current():
    for path, text in reference.contents().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name}: run python scripts/configuration_reference.py"
        )
    assert reference.main(["--check"]) == 0


def test_a_file_that_is_not_current_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    monkeypatch.setattr(reference, "MARKDOWN", tmp_path / "configuration.md")
    monkeypatch.setattr(reference, "SCHEMA", tmp_path / "schema.json")
    assert reference.main(["--check"]) == 1
    assert "not current: schema.json" in capsys.readouterr().out
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


def test_every_setting_has_a_description():
    missing = [
        f"{heading}: {setting.name}"
        for _, heading, constructor, registry_kind in reference.sections()
        for setting in reference.documented_settings(constructor, registry_kind)
        if not setting.description
    ]
    assert missing == []
    for _, settings in reference.data_set_settings():
        assert all(setting.description for setting in settings)


def test_every_described_argument_exists():
    """A description of an argument that is gone would otherwise stay unseen."""
    for _, heading, constructor, _ in reference.sections():
        if constructor is reference.build_video_model:
            continue
        names = set(reference.parameters(constructor)[0])
        described = set(reference.argument_descriptions(constructor))
        assert described <= names, f"{heading}: {described - names}"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_configs_name_the_schema_and_fit_it(path):
    config = json.loads(path.read_text(encoding="utf-8"))
    assert (path.parent / config["$schema"]).resolve() == ROOT / "configs/schema.json"
    assert mistakes(config) == []


@pytest.mark.parametrize(
    "change, key",
    [
        ({"trainer": {"epohcs": 3}}, "trainer"),
        ({"trainer": {"epochs": "three"}}, "trainer.epochs"),
        ({"objektive": {}}, ""),
        ({"loss": {"type": "NormSoftmaxLoss", "args": {"margin": 0.1}}}, "loss.args"),
        ({"loss": {"type": "NoLoss"}}, "loss.type"),
        (
            {
                "objective": {
                    "type": "MILESPretraining",
                    "args": {"mask": {"type": "Tubes"}},
                }
            },
            "objective.args.mask.type",
        ),
        (
            {"arch": {"args": {"video_params": {"num_frame": 4}}}},
            "arch.args.video_params",
        ),
        (
            {"arch": {"args": {"text_params": {"pooling": 1}}}},
            "arch.args.text_params.pooling",
        ),
        (
            {"valid_loader": {"args": {"video_params": {"num_frame": 4}}}},
            "valid_loader.args.video_params",
        ),
        ({"evaluation": {"rows": ["dls"]}}, "evaluation.rows.0"),
    ],
    ids=str,
)
def test_the_schema_finds_a_mistake(change, key):
    assert key in mistakes(change)


def test_the_schema_key_is_not_part_of_a_config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(
        '{"$schema": "schema.json", "name": "x"} // an editor reads the schema'
    )
    assert load_config(path).to_dict() == {"name": "x"}


def test_types_and_defaults_are_those_of_the_constructor():
    text = reference.markdown()
    assert re.search(r"\| `trainer\.epochs` \| int \| `10` \| \w", text)
    assert re.search(r"\| `trainer\.early_stop` \| int or null \| `0` \| \w", text)
    assert re.search(
        r"\| `data_loader\.args\.dataset_name` \| str \| required \| \w", text
    )
