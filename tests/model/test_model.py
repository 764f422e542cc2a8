"""The towers: parity with the reference numbers, names, masks, attention weights, settings."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model import ARCHS, hub
from model.miles import MILES
from model.text import hugging_face
from model.video import VIDEO_ENCODERS, attention
from model.video.attention import DividedAttention, record_attention
from model.video.build import build_video_model
from model.video.space_time_transformer import SpaceTimeTransformer
from parse_config import Config, ConfigError
from scripts.synthetic import tiny_models

REFERENCE = Path(__file__).parents[1] / "reference"
SIZES = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 4,
    "num_frames": 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def numbers():
    return np.load(REFERENCE / "space_time_tiny.npz")


@pytest.fixture(scope="module")
def reference(numbers):
    encoder = SpaceTimeTransformer(**SIZES)
    encoder.load_state_dict(
        {
            k[2:]: torch.from_numpy(numbers[k])
            for k in numbers.files
            if k.startswith("w/")
        }
    )
    return encoder


@pytest.mark.parametrize("frames", [1, 3, 4])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_parity_with_the_reference(reference, numbers, frames, recompute):
    reference.zero_grad()
    reference.set_gradient_checkpointing(recompute)
    cls_BD, patch_BTND = reference(torch.from_numpy(numbers[f"x{frames}"]))
    assert patch_BTND.shape == (2, frames, 16, 48)
    tokens = torch.cat((cls_BD[:, None], patch_BTND.flatten(1, 2)), 1)
    cls_BD.pow(2).sum().backward()
    reference.set_gradient_checkpointing(False)
    torch.testing.assert_close(
        cls_BD, torch.from_numpy(numbers[f"cls{frames}"]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        tokens, torch.from_numpy(numbers[f"tokens{frames}"]), atol=1e-4, rtol=0
    )
    norms = {name: float(p.grad.norm()) for name, p in reference.named_parameters()}
    found = np.array([norms[name] for name in numbers["param_names"]])
    np.testing.assert_allclose(found, numbers[f"grad_norms{frames}"], atol=1e-4)


@pytest.mark.parametrize(
    "arch_config", ["base_patch16_224_temporal", "base_patch16_224"]
)
def test_names_and_shapes_of_the_released_video_encoder(arch_config):
    with torch.device("meta"):
        encoder = SpaceTimeTransformer(
            **SpaceTimeTransformer.sizes[arch_config], num_frames=4
        )
    released = json.loads((REFERENCE / "video_keys.json").read_text())
    released = {
        name: shape for name, shape in released.items() if not name.startswith("head.")
    }  # nothing uses it
    assert {name: list(p.shape) for name, p in encoder.state_dict().items()} == released


def test_names_of_the_projections(folder):
    state = tiny_models.build_miles(folder).state_dict()
    assert {name.split(".")[0] for name in state} == {
        "video_model",
        "text_model",
        "vid_proj",
        "text_proj",
    }
    assert {name for name in state if "proj." in name and "model" not in name} == {
        "vid_proj.0.weight",
        "vid_proj.0.bias",
        "text_proj.1.weight",
        "text_proj.1.bias",
    }


@pytest.mark.parametrize("name", VIDEO_ENCODERS.names())
def test_every_video_encoder_keeps_the_contract(name):
    encoder = VIDEO_ENCODERS.get(name)(**SIZES)
    clip = torch.randn(2, 3, 3, 32, 32)
    frames, rows, columns = encoder.grid(clip)
    mask = torch.rand(2, frames, rows * columns) < 0.5
    token = torch.zeros(encoder.embed_dim, requires_grad=True)
    cls_BD, patch_BTND = encoder(clip, mask, token)
    assert cls_BD.shape == (2, encoder.embed_dim) and patch_BTND.shape == (
        *mask.shape,
        encoder.embed_dim,
    )
    (cls_BD.sum() + patch_BTND.sum()).backward()
    assert token.grad is not None and all(
        p.grad is not None for p in encoder.parameters()
    )


@pytest.mark.parametrize("name", ARCHS.names())
def test_every_architecture_embeds_both_sides(name, folder):
    model = ARCHS.build({**tiny_models.arch_config(folder), "type": name}).eval()
    t_BE, v_BE = model(tiny_models.random_batch())
    assert t_BE.shape == v_BE.shape == (4, 16)
    assert model.encode_text(["a red dog", "the cat"]).shape == (2, 16)


def test_hidden_patches_are_not_seen(reference):
    clip, other = torch.randn(2, 4, 3, 32, 32), torch.randn(2, 4, 3, 32, 32)
    mask = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    mask[:, :, 1:3, 2:] = True
    pixels = mask.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, None]
    mask, token = mask.flatten(2), torch.randn(48)
    a, b = (reference(c, mask, token) for c in (clip, torch.where(pixels, other, clip)))
    assert all(torch.equal(x, y) for x, y in zip(a, b))
    assert not torch.equal(a[0], reference(clip)[0])
    assert not torch.equal(a[0], reference(clip, mask, token + 1)[0])


def test_a_mask_that_hides_nothing_changes_nothing(reference):
    clip = torch.randn(1, 2, 3, 32, 32)
    hidden = reference(clip, torch.zeros(1, 2, 16, dtype=torch.bool), torch.randn(48))
    assert all(torch.equal(x, y) for x, y in zip(hidden, reference(clip)))


@pytest.mark.parametrize(
    "shape", [(1, 5, 3, 32, 32), (1, 4, 3, 32, 40), (1, 1, 3, 64, 64)]
)
def test_clips_that_do_not_fit_are_named(reference, shape):
    with pytest.raises(ValueError, match=r"up to 4 frames of \(32, 32\)"):
        reference(torch.zeros(shape))


@pytest.mark.parametrize("over", ["space", "time"])
@pytest.mark.parametrize("frames", [1, 4])
def test_recorded_attention_is_the_twin_of_the_fused(over, frames):
    torch.manual_seed(0)
    layer = DividedAttention(48, 4, over)
    x_BSD = 3 * torch.randn(2, 1 + frames * 9, 48)
    plain = layer(x_BSD, frames)
    with record_attention(layer) as maps:
        spoken = layer(x_BSD, frames)
    torch.testing.assert_close(spoken, plain, atol=1e-6, rtol=1e-5)
    ((cls_BHS, patch_BGHQM),) = maps[""]
    groups, places = (frames, 9) if over == "space" else (9, frames)
    assert cls_BHS.shape == (2, 4, 1 + frames * 9) and patch_BGHQM.shape == (
        2,
        groups,
        4,
        places,
        1 + places,
    )
    for weights in (cls_BHS, patch_BGHQM):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    v_BSHK = layer.qkv(x_BSD).unflatten(-1, (3, 4, 12))[:, :, 2]
    group_BQHK = (
        v_BSHK[:, 1:].unflatten(1, (frames, 9))[:, 0]
        if over == "space"
        else v_BSHK[:, 1:].unflatten(1, (frames, 9))[:, :, 0]
    )
    values = torch.cat((v_BSHK[:, :1], group_BQHK), 1)
    out = torch.einsum("bhqm,bmhk->bqhk", patch_BGHQM[:, 0], values).flatten(2)
    out = F.linear(out, layer.proj.weight, layer.proj.bias)
    wanted = plain[:, 1:].unflatten(1, (frames, 9))
    torch.testing.assert_close(
        out, wanted[:, 0] if over == "space" else wanted[:, :, 0]
    )
    assert layer.record is None


def test_recording_names_every_layer_and_leaves_the_model_as_it_was(folder):
    model = tiny_models.build_miles(folder).eval()
    clip = tiny_models.random_batch()["video"]
    before = model.encode_video(clip)[0]
    with record_attention(model) as maps:
        torch.testing.assert_close(
            model.encode_video(clip)[0], before, atol=1e-6, rtol=1e-5
        )
        model.encode_video(clip)
    assert set(maps) == {
        f"video_model.blocks.{i}.{kind}"
        for i in range(2)
        for kind in ("attn", "timeattn")
    }
    assert all(len(calls) == 2 for calls in maps.values())
    assert torch.equal(model.encode_video(clip)[0], before)


@pytest.mark.parametrize(
    "time_init, silent", [("zeros", True), ("rand", False), ("copy", False)]
)
def test_time_init(time_init, silent):
    torch.manual_seed(0)
    block = SpaceTimeTransformer(**SIZES, time_init=time_init).blocks[0]
    x_BSD = torch.randn(1, 65, 48)
    assert bool((block.timeattn(x_BSD, 4) == 0).all()) == silent
    block(x_BSD, 4).sum().backward()
    assert bool(block.timeattn.proj.weight.grad.any())


@torch.no_grad()
def test_four_equal_frames_through_silent_time(monkeypatch):
    """They give the one-frame output, but for what the architecture itself counts: CLS stands once among the keys of
    its own attention, the picture four times. With CLS's own key at a quarter the one-frame output is met exactly."""
    torch.manual_seed(0)
    encoder = SpaceTimeTransformer(**SIZES).double().eval()
    picture = torch.randn(2, 1, 3, 32, 32, dtype=torch.float64)
    cls_BD, patch_BTND = encoder(picture.expand(-1, 4, -1, -1, -1))
    near, _ = encoder(picture)
    assert float(F.cosine_similarity(cls_BD, near).min()) > 0.99

    def quartered(q, k, v):
        bias = torch.zeros(q.shape[-2], k.shape[-2], dtype=q.dtype)
        bias[:, 0] -= math.log(4) if k.shape[-2] == 17 and q.shape[-2] == 1 else 0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias), None

    monkeypatch.setattr(attention, "fused", quartered)
    one_BD, one_B1ND = encoder(picture)
    torch.testing.assert_close(cls_BD, one_BD, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        patch_BTND, one_B1ND.expand(-1, 4, -1, -1), atol=1e-10, rtol=0
    )


def test_every_parameter_gets_a_gradient(folder):
    model = tiny_models.build_miles(folder)
    t_BE, v_BE = model(tiny_models.random_batch())
    (t_BE.sum() + v_BE.sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_gradient_checkpointing_of_both_towers(folder):
    model, batch = tiny_models.build_miles(folder), tiny_models.random_batch()
    grads = []
    for on in (False, True, False):
        model.set_gradient_checkpointing(on)
        model.zero_grad()
        sum(part.pow(2).sum() for part in model(batch)).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for kept, recomputed, again in zip(*grads):
        torch.testing.assert_close(kept, recomputed)
        assert torch.equal(kept, again)


def test_pooling(folder):
    spec = tiny_models.arch_config(folder)
    spec["args"]["text_params"]["pooling"] = "mean"
    model = ARCHS.build(spec).eval()
    long = model.tokenize(["a red dog runs left", "the cat"])
    both = model.encode_text(long)
    alone = model.encode_text(model.tokenize(["the cat"]))
    torch.testing.assert_close(both[1:], alone)
    hidden = model.text_model(**model.tokenize(["the cat"])).last_hidden_state
    torch.testing.assert_close(alone, model.text_proj(hidden.mean(1)))
    spec["args"]["text_params"]["pooling"] = "cls"
    first = ARCHS.build(spec).eval()
    torch.testing.assert_close(
        first.encode_text(long)[0],
        first.text_proj(first.text_model(**long).last_hidden_state[0, 0]),
    )


def test_captions_are_cut_at_what_the_model_takes(folder):
    model = tiny_models.build_miles(folder)
    assert model.tokenize(["dog " * 100])["input_ids"].shape == (1, 32)
    assert set(model.tokenize(["dog"])) == {"input_ids", "attention_mask"}


def test_a_bert_has_no_idle_pooler(tmp_path):
    from transformers import BertConfig, BertModel

    tiny_models.save_text_model(tmp_path)
    BertModel(
        BertConfig(
            vocab_size=len(tiny_models.WORDS),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
        )
    ).save_pretrained(tmp_path)
    model = tiny_models.build_miles(str(tmp_path))
    assert not any("pooler" in name for name in model.state_dict())
    model.encode_text(tiny_models.random_batch()["text"]).sum().backward()
    assert all(p.grad is not None for p in model.text_model.parameters())


def test_text_from_its_shape_alone(folder):
    spec = tiny_models.arch_config(folder)
    loaded = ARCHS.build(spec)
    spec["args"]["text_params"]["pretrained"] = False
    fresh = ARCHS.build(spec)
    assert loaded.text_model.config.dim == fresh.text_model.config.dim == 32
    pair = [m.text_model.embeddings.word_embeddings.weight for m in (loaded, fresh)]
    assert not torch.equal(*pair)


@pytest.mark.parametrize(
    "video, text, message",
    [
        ({"num_heads": 5}, {}, "embed_dim 24 is no multiple of num_heads 5"),
        ({"num_heads": 0}, {}, "num_heads: 0 is given, 1 or more is needed"),
        ({"patch_size": 0}, {}, "patch_size: 0 is given, 1 or more is needed"),
        ({"img_size": 0}, {}, "img_size: 0 is given, 1 or more is needed"),
        ({"embed_dim": -8}, {}, "embed_dim: -8 is given, 1 or more is needed"),
        ({"img_size": 30}, {}, "img_size 30 x 30 is no multiple of patch_size 8"),
        ({"time_init": "ones"}, {}, "time_init 'ones' is none of zeros, rand, copy"),
        ({"act": "relu"}, {}, "act 'relu' is none of gelu, quick_gelu"),
        (
            {"arch_config": "huge"},
            {},
            "arch.args.video_params.arch_config: 'huge' is no size of SpaceTimeTransformer",
        ),
        (
            {"nmu_frames": 4},
            {},
            r"arch.args.video_params.nmu_frames: unknown key \(nearest: num_frames\)",
        ),
        (
            {"model": "SpaceTime"},
            {},
            r"arch.args.video_params.model: 'SpaceTime' is no video encoder \(nearest: Space",
        ),
        (
            {},
            {"pooling": "max"},
            "arch.args.text_params.pooling: 'max' is given, cls or mean is needed",
        ),
        (
            {},
            {"modell": "x"},
            r"arch.args.text_params.modell: unknown key \(nearest: model\)",
        ),
    ],
)
def test_wrong_settings_are_named(folder, video, text, message):
    spec = tiny_models.arch_config(folder, **video)
    spec["args"]["text_params"].update(text)
    with pytest.raises(ConfigError, match=message):
        ARCHS.build(Config(spec, "arch"))


def test_a_projection_that_is_none(folder):
    spec = tiny_models.arch_config(folder, embed_dim=32)
    spec["args"]["projection"] = ""
    assert ARCHS.build(spec).encode_text(["a dog"]).shape == (1, 32)
    spec["args"]["video_params"]["embed_dim"] = 24
    with pytest.raises(
        ConfigError, match="needs towers of one width; video has 24, text 32"
    ):
        ARCHS.build(spec)


def test_no_network_is_one_line_and_quick(monkeypatch, folder, tmp_path):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    hub.reachable.cache_clear()
    start = time.monotonic()
    try:
        with pytest.raises(ConfigError) as text:
            hugging_face.build_text_model("nobody-has/this-model")
        with pytest.raises(ConfigError) as video:
            tiny_models.build_miles(
                folder, pretrained="vit_base_patch16_224.augreg_in21k"
            )
        with pytest.raises(
            ConfigError, match="true stands for no weights known to fit"
        ):
            tiny_models.build_miles(folder, pretrained=True)
        with pytest.raises(ConfigError, match="hf download nobody-has/this"):
            MILES.from_pretrained("nobody-has/this")
        with pytest.raises(FileNotFoundError, match="no such folder"):
            MILES.from_pretrained(tmp_path / "absent")
    finally:
        hub.reachable.cache_clear()
    assert time.monotonic() - start < 5
    assert "'hf download nobody-has/this-model --local-dir this-model'" in str(
        text.value
    )
    assert "set arch.args.text_params.model to its path" in str(text.value)
    assert "hf download timm/vit_base_patch16_224.augreg_in21k" in str(video.value)
    assert "arch.args.video_params.pretrained" in str(video.value) and "\n" not in str(
        video.value
    )


def test_paths_need_a_reader(folder):
    model = tiny_models.build_miles(folder).eval()
    with pytest.raises(ValueError, match="embed_videos has no clip reader"):
        model.embed_videos(["a.mp4"])
    clips = dict(zip(("a.mp4", "b.mp4"), tiny_models.random_batch()["video"]))
    model.set_clip_reader(lambda paths: torch.stack([clips[path] for path in paths]))
    v_BE = model.embed_videos(["a.mp4", "b.mp4"])
    wanted = model.encode_video(torch.stack(list(clips.values())))[0]
    torch.testing.assert_close(v_BE, wanted.detach())
    assert not v_BE.requires_grad and torch.equal(model.embed_videos("b.mp4"), v_BE[1:])


def test_drop_path_only_when_training():
    torch.manual_seed(0)
    encoder = SpaceTimeTransformer(**{**SIZES, "num_frames": 2}, drop_path_rate=0.5)
    clip = torch.randn(2, 2, 3, 32, 32)
    assert not torch.equal(encoder(clip)[0], encoder(clip)[0])
    encoder.eval()
    assert torch.equal(encoder(clip)[0], encoder(clip)[0])
    assert [getattr(block.drop_path, "drop_prob", 0.0) for block in encoder.blocks] == [
        0,
        0.25,
        0.5,
    ]


def test_the_older_name_of_a_setting_is_accepted():
    sizes = {
        "arch_config": "",
        "img_size": 32,
        "embed_dim": 24,
        "depth": 1,
        "num_heads": 2,
    }
    models = []
    for name in ("place_std", "pos_embed_std"):
        torch.manual_seed(0)
        models.append(build_video_model({**sizes, name: 0.7}))
    older, newer = (model.pos_embed for model in models)
    assert torch.equal(older, newer)
    assert 0.6 < older.std() < 0.8


def test_values_weighted_by_attention_are_what_cls_receives(folder):
    encoder = SpaceTimeTransformer(**{**SIZES, "num_heads": 1}).double().eval()
    video = torch.randn(2, 3, 3, 32, 32, dtype=torch.float64)
    seen = {}
    layer = encoder.blocks[-1].attn
    layer.register_forward_hook(
        lambda _, inputs, output: seen.update(input=inputs[0], output=output)
    )
    with record_attention(layer) as maps:
        encoder(video)
    weights_BS = maps[""][0].cls_BHS[:, 0]
    received = torch.einsum("bs,bsd->bd", weights_BS, layer.values(seen["input"]))
    torch.testing.assert_close(received, seen["output"][:, 0], rtol=0, atol=1e-12)


def test_the_value_features_leave_cls_as_it_is(folder):
    encoder = SpaceTimeTransformer(**SIZES).eval()
    video = torch.randn(2, 3, 3, 32, 32)
    cls, last = encoder(video)
    same_cls, value = encoder(video, patch_features="value")
    assert torch.equal(cls, same_cls) and value.shape == last.shape
    assert not torch.allclose(value, last)
    encoder.set_gradient_checkpointing(True)
    torch.testing.assert_close(encoder(video, patch_features="value")[1], value)
