"""read_checkpoint: every format of torch.save, and files that try to run something."""

import argparse
import collections
import copy
import functools
import io
import logging
import os
import pathlib
import pickle
import random
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from model.weights import read_checkpoint
from model.weights.read import read_skeleton
from model.weights.safe_unpickler import UnsafeCheckpoint
from parse_config import ConfigError

FORMATS = [(zipped, protocol) for zipped in (True, False) for protocol in (2, 4)]


@pytest.fixture
def parser_class(monkeypatch):
    """A class that the file names and no reader has, as in the released checkpoints."""
    module = types.ModuleType("parse_config_dist_multi")
    module.ConfigParser = type(
        "ConfigParser",
        (),
        {"__module__": module.__name__, "__qualname__": "ConfigParser"},
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.ConfigParser


def content(parser):
    config = parser()
    config._config = collections.OrderedDict(
        name="MSRVTT", arch={"args": {"lr": [1, 2.5, None, True]}}
    )
    config._save_dir, config.logger = (
        pathlib.PosixPath("/exps/models"),
        logging.getLogger("trainer"),
    )
    config.join, config.me = functools.partial(os.path.join, "a", b="c"), config
    config.args, config.levels = (
        argparse.Namespace(lr=1e-4),
        {0: logging.WARNING, 1: {2, 3}},
    )
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {
        "arch": "MILES",
        "epoch": 3,
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "monitor_best": np.float64(3.5),
        "array": np.arange(6, dtype=">i4").reshape(2, 3),
        "bytes": b"\xff\x00",
        "config": config,
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "eight": torch.ones(2).to(torch.float8_e4m3fn),
        "view": torch.arange(10)[2:8:2],
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "nested": (1, [(2,)]),
        "default": collections.defaultdict(dict, {1: 2}),
        "empty": torch.empty(0),
        "whole": torch.tensor(7),
        "words": np.str_("abc"),
        "device": torch.device("cpu"),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "flags": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("zipped, protocol", FORMATS)
def test_everything_that_checkpoints_hold(tmp_path, parser_class, zipped, protocol):
    wanted = content(parser_class)
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(
        wanted, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol
    )
    sys.modules.pop("parse_config_dist_multi")
    found = read_checkpoint(path)
    for name, tensor in wanted["state_dict"].items():
        assert torch.equal(found["state_dict"][name], tensor)
    for key in ("parameter", "view", "empty", "whole", "transposed", "flags", "eight"):
        assert (
            found[key].dtype == wanted[key].dtype
            and found[key].tolist() == wanted[key].tolist()
        ), key
    assert torch.equal(found["array"], torch.arange(6, dtype=torch.int32).view(2, 3))
    moments = wanted["optimizer"]["state"][0]
    assert all(
        torch.equal(found["optimizer"]["state"][0][key], moments[key])
        for key in moments
    )
    assert found["optimizer"]["param_groups"] == wanted["optimizer"]["param_groups"]
    assert (found["epoch"], found["monitor_best"], found["bytes"]) == (
        3,
        3.5,
        b"\xff\x00",
    )
    assert (found["size"], found["dtype"], found["nested"]) == (
        (1, 2),
        "torch.float16",
        (1, [(2,)]),
    )
    assert (found["default"], found["words"], found["device"]) == ({1: 2}, "abc", "cpu")
    config = found["config"]
    assert config.pop("me") is config
    assert config == {
        "class": "parse_config_dist_multi.ConfigParser",
        "_save_dir": "/exps/models",
        "_config": {"name": "MSRVTT", "arch": {"args": {"lr": [1, 2.5, None, True]}}},
        "logger": {"class": "logging.getLogger", "args": ("trainer",)},
        "join": {
            "class": "functools.partial",
            "args": ("posixpath.join",),
            "state": ("posixpath.join", ("a",), {"b": "c"}, None),
        },
        "args": {"class": "argparse.Namespace", "lr": 1e-4},
        "levels": {0: 30, 1: {2, 3}},
    }


def test_shared_memory_stays_shared(tmp_path):
    tensor = torch.arange(6.0)
    torch.save({"state_dict": {"a": tensor, "b": tensor[2:]}}, tmp_path / "x.pth")
    state = read_checkpoint(tmp_path / "x.pth")["state_dict"]
    state["a"][2] = 9
    assert state["b"][0] == 9


def test_bare_state_dicts_and_safetensors(tmp_path):
    from safetensors.torch import save_file

    state = {"weight": torch.ones(2)}
    torch.save(state, tmp_path / "bare.pth")
    torch.save({"model": state, "step": 3}, tmp_path / "model.pth")
    save_file(state, tmp_path / "model.safetensors")
    for name in ("bare.pth", "model.pth", "model.safetensors", "."):
        assert torch.equal(
            read_checkpoint(tmp_path / name)["state_dict"]["weight"], torch.ones(2)
        )
    assert read_checkpoint(tmp_path / "model.pth")["step"] == 3


@pytest.mark.parametrize("device", ["cuda:3", "mps", "xla:1"])
def test_tensors_of_any_device(tmp_path, device):
    torch.save({"state_dict": {"a": torch.arange(4.0)}}, tmp_path / "cpu.pth")
    with (
        zipfile.ZipFile(tmp_path / "cpu.pth") as old,
        zipfile.ZipFile(tmp_path / "there.pth", "w") as new,
    ):
        for name in old.namelist():
            told = b"X" + len(device).to_bytes(4, "little") + device.encode()
            new.writestr(name, old.read(name).replace(b"X\x03\x00\x00\x00cpu", told))
    tensor = read_checkpoint(tmp_path / "there.pth")["state_dict"]["a"]
    assert tensor.device.type == "cpu" and tensor.tolist() == [0, 1, 2, 3]


class Calls:
    """Pickled, it asks the reader to call `function(*args)`."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("zipped, protocol", FORMATS)
@pytest.mark.parametrize(
    "wanted, function, args",
    [
        (f"{os.name}.system", os.system, ("touch RAN",)),
        ("builtins.eval", eval, ("open('RAN', 'w')",)),
        ("builtins.exec", exec, ("open('RAN', 'w')",)),
        ("builtins.getattr", getattr, (os, "system")),
        ("builtins.__import__", __import__, ("antigravity",)),
        (f"{open.__module__}.open", open, ("RAN", "w")),
        ("subprocess.Popen", subprocess.Popen, ("touch RAN",)),
        ("torch.hub.load", torch.hub.load, ("nobody/nothing", "model")),
        ("torch.serialization.load", torch.load, ("other.pth",)),
        ("torch.storage._load_from_bytes", torch.storage._load_from_bytes, (b"x",)),
        (
            "torch._utils._rebuild_sparse_tensor",
            torch._utils._rebuild_sparse_tensor,
            (1, 2),
        ),
        ("model.weights.read.read_checkpoint", read_checkpoint, ("other.pth",)),
        (
            "an object of functools.partial",
            functools.partial(os.system, "touch RAN"),
            (),
        ),
    ],
)
def test_calls_are_refused_by_name(
    tmp_path, monkeypatch, zipped, protocol, wanted, function, args
):
    monkeypatch.chdir(tmp_path)
    args = tuple("os" if arg is os else arg for arg in args)
    torch.save(
        {"state_dict": {"a": torch.ones(1)}, "config": Calls(function, *args)},
        "bad.pth",
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    with pytest.raises(UnsafeCheckpoint) as caught:
        read_checkpoint("bad.pth")
    assert str(caught.value).startswith(
        f"bad.pth: refused, because reading it would call {wanted}; nothing of it was"
    )
    assert "\n" not in str(caught.value) and not (tmp_path / "RAN").exists()


def zip_with(path, program: bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(16))


PROGRAMS = [
    (b"(S'touch RAN'\nios\nsystem\n.", "os.system"),  # INST
    (b"(cos\nsystem\nS'touch RAN'\no.", "os.system"),  # OBJ
    (b"csubprocess\nPopen\n(S'touch RAN'\nt\x81.", "subprocess.Popen"),  # NEWOBJ
    (b"csubprocess\nPopen\n(S'touch RAN'\nt}\x92.", "subprocess.Popen"),  # NEWOBJ_EX
    (
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch RAN\x85R.",
        "os.system",
    ),  # STACK_GLOBAL
    (
        b"\x80\x04\x8c\x02os\x8c\x0bpath.exists\x93\x8c\x01x\x85R.",
        "os.path.exists",
    ),  # a dotted name
    (
        b"ccopyreg\n_reconstructor\n(csubprocess\nPopen\ncbuiltins\nobject\nNtR.",
        "subprocess.Popen",
    ),
    (b"c__builtin__\neval\n(S'1'\ntR.", "builtins.eval"),  # Python 2's names
    (b"csome\nThing\n)\x81(tR.", "an object of some.Thing"),  # a stub is called
    (
        b"ccollections\nOrderedDict\n}S'__call__'\ncos\nsystem\nsb.",
        "set the state of collections.OrderedDict",
    ),
    (b"]}S'append'\ncos\nsystem\nsb.", "set the state of a list"),
    (b"\x82\x01.", "copyreg extension"),  # EXT1
    (b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR.", "numpy value of type 'O8'"),
    (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n(S'touch RAN'\nt}tR.",
        "os.system",
    ),
    (
        b"(S'storage'\ncos\nsystem\nS'0'\nS'cpu'\nI4\ntQ.",
        "storage of type os.system",
    ),  # BINPERSID
    (b"ctorch\nload\n(S'other.pth'\ntR.", "torch.load"),
    (b"ctorch.jit\nload\n(S'other.pth'\ntR.", "torch.jit.load"),
    (b"cos\nsystem\n(S'touch RAN'\ntR0.", "os.system"),  # and its result dropped
]


@pytest.mark.parametrize("program, wanted", PROGRAMS)
def test_programs_written_by_hand(tmp_path, monkeypatch, program, wanted):
    monkeypatch.chdir(tmp_path)
    zip_with("bad.pth", program)
    with pytest.raises(UnsafeCheckpoint, match=wanted.replace(".", r"\.")):
        read_checkpoint("bad.pth")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.pth"]


def test_a_named_function_is_only_a_word(tmp_path):
    torch.save(
        {
            "state_dict": {"a": torch.ones(1)},
            "hook": os.system,
            "kind": subprocess.Popen,
        },
        tmp_path / "x.pth",
    )
    found = read_checkpoint(tmp_path / "x.pth")
    assert (found["hook"], found["kind"]) == (f"{os.name}.system", "subprocess.Popen")


def tensor_program(size: int, offset: int) -> bytes:
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"
        b"I%d\n(I%d\nt(I1\ntI00\n}tR." % (offset, size)
    )


def test_tensors_stay_within_their_storage(tmp_path):
    zip_with(tmp_path / "x.pth", b"}S'a'\n" + tensor_program(4, 0)[:-1] + b"s.")
    assert read_checkpoint(tmp_path / "x.pth")["state_dict"]["a"].tolist() == [0] * 4
    for size, offset in ((5, 0), (4, 1), (1, -1), (-1, 0), (1 << 60, 0)):
        zip_with(tmp_path / "x.pth", tensor_program(size, offset))
        with pytest.raises(ConfigError, match="damaged"):
            read_checkpoint(tmp_path / "x.pth")


def test_torchscript_and_other_archives_are_refused(tmp_path):
    for name, message in (
        ("code/x.py", "another zip archive"),
        ("archive/constants.pkl", "TorchScript"),
    ):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr(
                "archive/data.pkl" if "constants" in name else "a.npy", pickle.dumps({})
            )
            archive.writestr(name, b"")
        with pytest.raises(ConfigError, match=message):
            read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"", "damaged"),
        (b"\x80\x02K\x01.", "none that torch.save wrote|damaged"),
        (b"PK\x03\x04 cut off", "damaged"),
        (pickle.dumps({"a": 1}), "none that torch.save wrote|damaged"),
        (random.Random(0).randbytes(64) + b"x", "damaged|no checkpoint"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, data, message):
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_checkpoint(tmp_path / "x.pth")


def test_a_skeleton_has_shapes_without_values(tmp_path):
    path = tmp_path / "m.pth"
    torch.save({"state_dict": {"a": torch.ones(3, 4)}, "step": 7}, path)
    skeleton = read_skeleton(path)
    assert skeleton["step"] == 7
    assert skeleton["state_dict"]["a"].shape == (3, 4)
    assert skeleton["state_dict"]["a"].device.type == "meta"


def test_compressed_members_are_refused(tmp_path):
    """A bomb of a few kilobytes would need gigabytes."""
    path = tmp_path / "m.pth"
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
    bomb = tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(path) as plain_archive,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in plain_archive.namelist():
            archive.writestr(name, plain_archive.read(name))
    with pytest.raises(ConfigError, match="is compressed, which torch.save does not"):
        read_checkpoint(bomb)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    """A directory that names one member many times: more than fits into the file."""
    path = tmp_path / "m.pth"
    torch.save({"state_dict": {"a": torch.zeros(100_000)}}, path)
    with zipfile.ZipFile(path, "a") as archive:
        (large,) = [
            member
            for member in archive.infolist()
            if member.filename.endswith("data/0")
        ]
        for number in range(5):
            again = copy.copy(large)
            again.filename = f"m/data/{number + 1}"
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
        archive._didModify = True
    with pytest.raises(ConfigError, match="its members are larger than the file"):
        read_checkpoint(path)


def test_an_expanded_tensor_costs_nothing(tmp_path):
    path = tmp_path / "m.pth"
    torch.save({"state_dict": {"a": torch.zeros(1).expand(10**6, 10**6)}}, path)
    tensor = read_checkpoint(path)["state_dict"]["a"]
    assert tensor.shape == (10**6, 10**6)
    assert tensor.untyped_storage().nbytes() == 4


def test_absent_files_and_files_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="is a folder without a model"):
        read_checkpoint(tmp_path)
    torch.save({"epoch": 3, "net": torch.nn.Linear(2, 2)}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="holds no state_dict .* but epoch, net"):
        read_checkpoint(tmp_path / "x.pth")
    import tarfile

    with tarfile.open(tmp_path / "y.pth.tar", "w") as archive:
        archive.add(tmp_path / "x.pth", "x.pth")
    with pytest.raises(ConfigError, match="is a tar archive; unpack it"):
        read_checkpoint(tmp_path / "y.pth.tar")


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_is_always_one_line(tmp_path, parser_class, zipped):
    """Cut and changed bytes end as a ConfigError (or as a readable file), never in a call or another error."""
    made = io.BytesIO()
    torch.save(
        {**content(parser_class), "array": None},
        made,
        _use_new_zipfile_serialization=zipped,
    )
    whole, draw = made.getvalue(), random.Random(0)
    path = tmp_path / "x.pth"
    for _ in range(150):
        data = bytearray(
            whole[: draw.randrange(len(whole))] if draw.random() < 0.2 else whole
        )
        for _ in range(draw.randint(1, 6)):
            if data:
                data[draw.randrange(min(len(data), 4000))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            assert isinstance(read_checkpoint(path), dict)
        except ConfigError as error:
            assert str(path) in str(error)


def limited(content, tmp_path, megabytes=600, seconds=20):
    """The outcome of reading a file with these bytes in a process of its own, with little memory and time."""
    path = tmp_path / "hostile.pth"
    path.write_bytes(content)
    code = (
        "import resource, sys\nfrom model.weights import read_checkpoint\nfrom parse_config import ConfigError\n"
        "import torch\n"
        f"used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {megabytes << 20},) * 2)\n"
        "try:\n    read_checkpoint(sys.argv[1])\n    print('read')\n"
        "except ConfigError as error:\n    print('refused', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds + 100,
    )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
LEGACY_START += pickle.dumps({}, 2)


def doubled(levels, end):
    """A pickle of ((x, x), (x, x)), ... of so many levels: short, and of 2 ** levels leaves."""
    return b"\x80\x02K\x01" + b"q\x01h\x01\x86" * levels + end


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\xff\xff\xff\x0f.",
        b"\x80\x05\x96" + (1 << 33).to_bytes(8, "little") + b".",
        b"\x80\x04\x8e" + (1 << 33).to_bytes(8, "little") + b".",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        doubled(60, b"."),
        b"\x80\x02}" + doubled(60, b"Ns.")[2:],
        b"\x80\x04\x8f(" + doubled(60, b"\x90.")[2:],
        b"\x80\x04(" + doubled(60, b"\x91.")[2:],
        b"\x80\x02(" + doubled(60, b"Nd.")[2:],
    ],
    ids=[
        "memo",
        "bytearray8",
        "binbytes8",
        "binunicode",
        "long4",
        "tuples",
        "key",
        "set",
        "frozenset",
        "dict",
    ],
)
def test_a_small_file_takes_little_memory_and_time(tmp_path, content):
    assert limited(LEGACY_START + content, tmp_path).startswith("refused")
