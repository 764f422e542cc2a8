"""What docs/*.md say can be typed: commands name scripts, options and settings that exist; pages of tasks are gone
through as a new user would, on miniatures."""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from model.video.build import BUILD_KEYS
from parse_config import Config, ConfigError, check_args, load_config
from scripts.synthetic import miniatures, tiny_models
from tests.helpers import warm_python
from tests.scripts.test_recipes import DATA, VIDEOS
from tests.test_configs import check_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").glob("*.md"))
}
WALKED = (
    "evaluate.md",
    "finetune.md",
    "own_data.md",
    "pretrain.md",
)  # every command of these is run, but for:
NOT_HERE = (
    "tensorboard",
    "scripts/rehearsal.py",
)  # a server; tests/scripts/test_rehearsal.py
SIZED = ("test.py", "train.py")  # take settings
RECIPES = {
    "finetune.sh": "train.py",
    "pretrain_cc3m_webvid_1f.sh": "train.py",
    "pretrain_curriculum.sh": "train.py",
    "pretrain_webvid_4f.sh": "train.py",
    "test_retrieval.sh": "test.py",
    "test_retrieval_MILES.sh": "test.py",
}
OWN_CONFIG = {"test_retrieval_MILES.sh": "zero_msrvtt_4f_i21k_MILES.json"} | {
    f"{name}.sh": f"{name}.json"
    for name in ("pretrain_cc3m_webvid_1f", "pretrain_webvid_4f", "pretrain_curriculum")
}


class Command(NamedTuple):
    """A line of a page: its variables, its launcher's words, the program (a path), what follows that."""

    page: str
    line: str
    variables: dict[str, str]
    program: str
    words: list[str]


def commands(page: str) -> list[Command]:
    """The indented lines, and those of fenced shell blocks, that start a program."""
    text = re.sub(r"```(?!bash|sh\b)\w*\n.*?```", "", PAGES[page], flags=re.S).replace(
        "\\\n", " "
    )
    found = []
    for line in text.splitlines():
        starts = re.match(r"( {4,}|\w+=\S+ )*(bash|python|torchrun|sbatch) ", line)
        words = shlex.split(line, comments=True) if starts else []
        variables = dict(
            word.split("=", 1) for word in words if re.fullmatch(r"[A-Z0-9_]+=.*", word)
        )
        words = words[len(variables) :]
        place = next(
            (i for i, word in enumerate(words) if re.search(r"\.(py|sh)$", word)), None
        )
        if place is not None:
            found.append(
                Command(page, line.strip(), variables, words[place], words[place + 1 :])
            )
    return found


COMMANDS = [command for page in PAGES for command in commands(page)]
IDS = [f"{command.page}: {command.line[:90]}" for command in COMMANDS]


def written(page: str) -> dict[str, str]:
    """Files that a page tells the reader to write: `name` at the end of a line, then a block."""
    return dict(
        re.findall(
            r"`([\w./]+\.(?:py|json))`[^\n]*:\n\n```\w+\n(.*?)```", PAGES[page], re.S
        )
    )


def test_the_pages_have_commands():
    assert {command.page for command in COMMANDS} >= {
        *WALKED,
        "add_a_component.md",
        "scale_out.md",
    }
    assert set(written("own_data.md")) == {"data/make_mine.py", "data/mine/config.json"}
    assert len(written("add_a_component.md")) == 3
    assert sum(
        line.startswith("    ") and " scripts/" in line
        for line in PAGES["pretrain.md"].splitlines()
    ) == sum("scripts/" in command.line for command in commands("pretrain.md"))


@functools.cache
def help_of(program: str, kind: str = "") -> str:
    """What `program [kind] --help` prints."""
    words = [str(ROOT / program), *([kind] if kind else []), "--help"]
    return subprocess.run(
        [PYTHON[0], *words], cwd=ROOT, capture_output=True, text=True
    ).stdout


PYTHON = [sys.executable]


@pytest.fixture(scope="module", autouse=True)
def python():
    with warm_python.serve() as path:
        PYTHON[0] = path
        yield path


@pytest.mark.parametrize("command", COMMANDS, ids=IDS)
def test_programs_and_options_exist(command):
    program = RECIPES.get(Path(command.program).name, command.program)
    made = written(command.page)
    if command.program in made:
        return
    assert (ROOT / command.program).is_file(), f"{command.program} does not exist"
    if "slurm.sbatch" in command.line:
        assert (ROOT / "scripts/slurm.sbatch").is_file()
    kind = (
        command.words[0]
        if command.words and re.fullmatch(r"[a-z]+", command.words[0])
        else ""
    )
    told = help_of(program, kind) if program.endswith(".py") else ""
    for word in command.words:
        option = re.match(r"--?[A-Za-z][\w-]*", word)
        if option and told:
            assert re.search(rf"(?<![\w-]){re.escape(option[0])}(?![\w-])", told), (
                f"{program} has no {option[0]}"
            )
        if re.fullmatch(r"(configs|data|tests|scripts)/\S+\.(json|py)", word):
            assert (ROOT / word).is_file() or word in made, f"{word} does not exist"


@pytest.mark.parametrize(
    "command",
    [
        command
        for command in COMMANDS
        if any(re.match(r"[a-z_.0-9]+=", word) for word in command.words)
        and command.page != "add_a_component.md"
    ],  # there the names are the page's own, and its test runs them
    ids=lambda command: f"{command.page}: {command.line[:90]}",
)
def test_settings_exist(command, tmp_path, monkeypatch):
    """Every key.path=value lies in the config, or is an argument of what it configures."""
    monkeypatch.setenv("STAGE1", "stage1.pth")
    settings = [word for word in command.words if re.match(r"[a-z_.0-9]+=", word)]
    named = next((word for word in command.words if word.endswith(".json")), None)
    path = ROOT / (named or f"configs/{OWN_CONFIG[Path(command.program).name]}")
    made = written(command.page)
    if named in made:
        (tmp_path / "configs").symlink_to(ROOT / "configs")
        for name, content in made.items():
            miniatures.write_text(tmp_path / name, content)
        path = tmp_path / named
    check(load_config(path, settings))


def check(whole: Config):
    """As train.py would, and the encoder's arguments too."""
    check_config(whole)
    for block in (whole, *whole.blocks("stages")):
        video = ((block.get("arch") or {}).get("args") or {}).get("video_params") or {}
        from model.video import VIDEO_ENCODERS

        check_args(
            VIDEO_ENCODERS.get("SpaceTimeTransformer"),
            {k: v for k, v in video.items() if k not in BUILD_KEYS},
            "arch.args.video_params",
        )


@pytest.mark.parametrize(
    "setting",
    [
        "trainer.epoch=1",
        "arch.args.video_params.frames=1",
        "data_loader.args.bs=1",
        "objective.args.mask.args.rate=1",
        "data_loader.args.video_params.speed=1",
    ],
)
def test_a_setting_that_does_not_exist_is_found(setting, monkeypatch):
    monkeypatch.setenv("STAGE1", "stage1.pth")
    with pytest.raises(ConfigError, match="unknown key"):
        check(load_config(ROOT / "configs/pretrain_webvid_4f.json", [setting]))


def test_links_lead_somewhere():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / "docs" / target).is_file(), f"{page}: {target}"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The repository as a user has it: code, miniatures where the data are looked for, MILES.pth."""
    here = tmp_path_factory.mktemp("docs")
    for name in ("scripts", "configs", "docs", "train.py", "test.py"):
        (here / name).symlink_to(ROOT / name)
    for name in DATA.values():
        folder = {"ConceptualCaptions3M": "CC3M"}.get(name, name)
        miniatures.build(name, here / "data" / folder, videos=VIDEOS)
    miniatures.build(
        "MSRVTT", here / "data/MSRVTT", "official", videos=VIDEOS
    )  # the full split beside 1k-A
    arch = tiny_models.arch_config(tiny_models.save_text_model(here / "text"))
    torch.save(
        {
            "arch": "MILES",
            "epoch": 1,
            "state_dict": tiny_models.build_miles(str(here / "text")).state_dict(),
            "config": {"arch": arch},
        },
        here / "MILES.pth",
    )
    rows = [{"path": f"{i}.mp4", "caption": miniatures.sentence(i)} for i in range(4)]
    for i in range(4):
        miniatures.write_media(here / "data/demo" / f"{i}.mp4", i)
    for split in ("train", "val", "test"):
        miniatures.write_text(
            here / "data/demo" / f"{split}.jsonl", "\n".join(map(json.dumps, rows))
        )
    return here


def run(home: Path, python: str, command: Command) -> subprocess.CompletedProcess:
    """The line as it stands on the page, from the repository; what trains or tests gets settings that make it small."""
    program = RECIPES.get(Path(command.program).name, command.program)
    line = command.line
    if program in SIZED and "--metrics-from" not in command.words:
        under = "stages." if "curriculum" in command.program else ""
        line += " " + " ".join(
            map(shlex.quote, tiny_models.command_line_overrides(home / "text", under))
        )
        line += " trainer.precision=fp32" + " arch.args.video_params.num_frames=4" * (
            "demo.json" in line
        )
    environment = {
        **os.environ,
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
        "PYTHON": python,
        "GPUS": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
    }
    before = set(home.glob("exps/*/*"))
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    for made in (
        set(home.glob("exps/*/*")) - before
    ):  # the page calls the first of each name STAMP
        if not made.with_name("STAMP").exists():
            made.with_name("STAMP").symlink_to(made.name)
            if "pretrain_cc3m" in line:  # of twenty epochs one is trained
                (made / "checkpoint-epoch20.pth").symlink_to("checkpoint-latest.pth")
    return done


@pytest.mark.parametrize("page", WALKED)
def test_a_page_is_gone_through(home, python, page):
    """Every command, in the page's order; files that it says to write are written before."""
    shutil.rmtree(home / "exps", ignore_errors=True)
    for name in (
        "finetune_msrvtt/STAMP/checkpoint-latest.pth",
        "demo/STAMP/model_best.pth",
    ):
        if page == "evaluate.md":  # which begins with models that others have made
            (home / "exps" / name).parent.mkdir(parents=True)
            shutil.copy(home / "MILES.pth", home / "exps" / name)
    for name, content in written(page).items():
        miniatures.write_text(home / name, content)
    for command in commands(page):
        if any(word in command.line for word in NOT_HERE):
            continue
        if command.program == "test.py" and "--metrics-from" in command.words:
            command = command._replace(
                line=command.line.replace("MSRVTT/test/STAMP", kept(home))
            )
        done = run(home, python, command)
        assert done.returncode == 0, (
            f"{command.line}\n{done.stdout[-1500:]}{done.stderr[-3000:]}"
        )
    if page == "own_data.md":
        code = re.findall(r"```python\n(from model.*?)```", PAGES[page], re.S)[0]
        miniatures.write_text(
            home / "data/five.py",
            f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}",
        )
        said = run(
            home, python, Command(page, "python data/five.py", {}, "data/five.py", [])
        )
        assert said.returncode == 0 and said.stdout.count(".") == 2, said.stderr
        assert (home / "data/mine/sheet.png").stat().st_size > 10_000
        assert (home / "data/mine_256/manifest.json").is_file()


def kept(home: Path) -> str:
    """The run that kept its embeddings."""
    return str(
        max(home.glob("exps/MSRVTT/test/*/embeddings")).parent.relative_to(
            home / "exps"
        )
    )


def test_a_component_is_one_file(tmp_path, home):
    """The page's three files put into a copy of the code: found, trained with, and met by the registries' tests."""
    for name in ("configs", "data_loader", "model", "trainer", "tests", "scripts"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("parse_config.py", "train.py", "test.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, content in written("add_a_component.md").items():
        assert not (tmp_path / name).exists()
        miniatures.write_text(tmp_path / name, content)
    for split in ("train", "val"):
        lines = [f"{i}.mp4\t{miniatures.sentence(i)}" for i in range(4)]
        miniatures.write_text(tmp_path / f"data/tab_list/{split}.txt", "\n".join(lines))
    for i in range(4):
        miniatures.write_media(tmp_path / "data/tab_list" / f"{i}.mp4", i)
    words = [
        word for command in commands("add_a_component.md") for word in command.words
    ]
    both = [word for word in words if re.match(r"[a-z_.]+=", word)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    small = [*tiny_models.command_line_overrides(home / "text"), "name=both"]
    done = subprocess.run(
        [sys.executable, "train.py", "-c", "configs/demo.json", *both, *small],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    config = json.loads(next(tmp_path.glob("exps/both/*/config.json")).read_text())
    assert (
        config["objective"]["args"]["mask"]["type"] == "Disc"
        and "layout: list" in done.stderr
    )
    assert config["objective"]["args"]["mvm_loss"]["type"] == "AbsoluteRegression"
    (line,) = [
        command
        for command in commands("add_a_component.md")
        if command.program == "scripts/test.sh"
    ]
    tests = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            "-k",
            "Disc or Absolute or disc or absolute or tab_list or wrong_kind or cycles",
            *line.words,
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert tests.returncode == 0, tests.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", tests.stdout)[1]) > 30


def test_figures_of_scale_out_are_the_measured_ones():
    """Every row of its tables, from the files that it names."""
    page = PAGES["scale_out.md"]
    bench = {
        kind: json.loads((ROOT / path).read_text())
        for path, kind in re.findall(
            r"(results/bench/(step|eval|loader)_\d+_\d+\.json)", page
        )
    }
    rows = {(row["step"], row["way"]): row for row in bench["step"]["rows"]}
    for name, kind in (("contrastive", "Contrastive"), ("MILES", "MILESPretraining")):
        family, ours = rows[kind, "family"], rows[kind, "ours"]
        assert (
            f"| {name} | {family['seconds']:.3f} | {ours['seconds']:.3f} | {ours['clips_per_s']:.1f} |"
            in page
        )
    for row in bench["eval"]["rows"]:
        if row["videos"] >= 10_000:
            digits = 2 if row["ours_s"] < 1 else 1
            assert (
                f"| {row['captions']:,} x {row['videos']:,} | {row['ours_s']:.{digits}f} | {row['peak_gib']:.2f} | "
                f"{row['bare_s']:.{digits}f} |"
            ) in page
    speeds = bench["loader"]["clips_per_s"]
    raw, copy = speeds["ours, av"], speeds["prepared: ours, av"]
    assert (
        f"{raw:.1f} clips a second and core" in page
        and f"{copy:.1f} from a copy" in page
    )
    assert (
        f"wants {-(-500 // raw):.0f} cores, and {-(-500 // copy):.0f} with the copy"
        in page
    )


def test_published_numbers_are_those_of_the_program():
    from trainer.evaluation.published import ROWS

    columns = ("msrvtt-1k-A", "msvd", "lsmdc-1000", "didemo-paragraph")
    for name, numbers in ROWS.items():
        cells = [
            " / ".join(
                f"{x:.1f}" if i < 3 else f"{x:g}" for i, x in enumerate(numbers[key])
            )
            for key in columns
        ]
        assert (
            f"| {name.replace(' ', ', ')} | {' | '.join(cells)} |"
            in PAGES["evaluate.md"]
        )
