"""Loading: everybody's names and shapes into ours, with a table; what does not fit stops the run."""

import logging
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from model import ARCHS
from model.restore import build_from_checkpoint, restore
from model.video.space_time_transformer import SpaceTimeTransformer
from model.weights import load_weights
from model.weights.image_vit import init_from_image
from model.weights.shapes import resize_pos_embed, stretch_time
from parse_config import Config, ConfigError
from scripts.synthetic import tiny_models

SIZES = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "num_frames": 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture
def model(folder):
    made = tiny_models.build_miles(folder, seed=1, time_init="rand").eval()
    torch.nn.init.normal_(made.video_model.temporal_embed)
    return made


def same(a, b, frames=4):
    batch = tiny_models.random_batch(frames=frames)
    return all(torch.equal(x, y) for x, y in zip(a(batch), b(batch)))


def table(caplog, source=""):
    return next(
        text
        for text in reversed([record.getMessage() for record in caplog.records])
        if text.startswith("weights from") and source in text.splitlines()[0]
    )


def authors(model):
    """Names as in the released MILES file: a wrapper's prefix, a head, a buffer that transformers dropped."""
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    return {
        **state,
        "module.video_model.head.weight": torch.ones(3),
        "module.video_model.fc.bias": torch.ones(3),
        "module.text_model.embeddings.position_ids": torch.arange(32)[None],
    }


def frozen(model):
    return {
        name.replace("text_proj", "txt_proj"): tensor
        for name, tensor in model.state_dict().items()
    }


def mcq(model):
    """No temporal attention; a BridgeFormer beside every block."""
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not any(part in name for part in ("timeattn", "norm3", "temporal_embed"))
    }
    state = {
        name.replace("video_model.norm.", "video_model.norm1."): tensor
        for name, tensor in state.items()
    }
    more = (
        "blocks.0.crossattn.q_question.weight",
        "blocks.1.bridgeattn.qkv.bias",
        "blocks.0.bridge_mlp.fc1.weight",
        "blocks.1.norm4.weight",
        "blocks.1.norm7.bias",
        "norm2.weight",
    )
    return {
        **state,
        **{f"video_model.{name}": torch.ones(3) for name in more},
        "bridge_proj.0.weight": torch.ones(3),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "layout, rows",
    [
        (
            authors,
            [
                "loaded      43 video_model.*",
                "left out     1 video_model.head.*: classifier, nothing uses it",
                "1 text_model.embeddings.position_ids: buffer that transformers dropped",
            ],
        ),
        (
            frozen,
            ["changed      2 text_proj.1.*: was txt_proj.1.* (Frozen in Time's name)"],
        ),
        (
            mcq,
            [
                "1 bridge_proj.0.*: BridgeFormer of MCQ",
                "1 video_model.norm2.*: BridgeFormer of MCQ",
                "changed      2 video_model.norm.*: was video_model.norm1.* (MCQ's name)",
                "1 video_model.blocks.*.crossattn.q_question.*: BridgeFormer of MCQ",
                "4 video_model.blocks.*.timeattn.proj.*: zeros: the file has no temporal attention",
                "4 video_model.blocks.*.norm3.*: copied from norm1",
            ],
        ),
    ],
)
def test_layouts_of_the_family(model, folder, tmp_path, caplog, layout, rows, zipped):
    torch.save(
        {"arch": "x", "state_dict": layout(model)},
        tmp_path / "x.pth",
        _use_new_zipfile_serialization=zipped,
    )
    if layout is mcq:  # what such a file describes
        model.video_model.zero_time()
        torch.nn.init.zeros_(model.video_model.temporal_embed)
    caplog.set_level(logging.INFO)
    other = tiny_models.build_miles(folder, seed=2, time_init="rand").eval()
    assert not same(model, other)
    load_weights(other, tmp_path / "x.pth")
    assert same(model, other)
    for row in rows:
        assert row in table(caplog), table(caplog)


def test_load_checkpoint_in_a_config(model, folder, tmp_path):
    torch.save({"state_dict": model.state_dict()}, tmp_path / "x.pth")
    spec = tiny_models.arch_config("/no/such/folder", pretrained="/no/such/image.pth")
    spec["args"] |= {"load_checkpoint": str(tmp_path / "x.pth")}
    spec["args"]["text_params"]["model"] = folder
    assert same(model, ARCHS.build(spec).eval()), (
        "neither tower is fetched when a checkpoint follows"
    )
    with pytest.raises(ConfigError, match="projection_dim: unknown key"):
        build_from_checkpoint(Config({**spec, "projection_dim": 3}))
    spec["args"]["load_checkpoint"] = str(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="absent.pth: no such checkpoint"):
        ARCHS.build(spec)


def test_what_does_not_fit_stops_the_run(model, folder, tmp_path, caplog):
    state = {**model.state_dict(), "video_model.extra": torch.ones(1)}
    del state["vid_proj.0.bias"], state["text_model.embeddings.LayerNorm.weight"]
    state["text_proj.1.weight"] = torch.ones(3, 4)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    other = tiny_models.build_miles(folder, seed=2)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        load_weights(other, tmp_path / "x.pth")
    message = str(caught.value)
    assert (
        "2 missing (text_model.embeddings.LayerNorm.weight, vid_proj.0.bias)" in message
    )
    assert (
        "1 of another shape (text_proj.1.weight: 3 x 4 in the file, 16 x 32 in the model)"
        in message
    )
    assert (
        "1 unknown (video_model.extra)" in message
        and "set arch.args.strict to false" in message
    )
    assert "\n" not in message and all(
        torch.equal(before[name], t) for name, t in other.state_dict().items()
    )
    spec = tiny_models.arch_config(folder)
    spec["args"] |= {"load_checkpoint": str(tmp_path / "x.pth"), "strict": False}
    loaded = ARCHS.build(spec)
    assert torch.equal(loaded.video_model.pos_embed, model.video_model.pos_embed)
    assert "misshapen    1 text_proj.1.*" in table(
        caplog
    ) and "1 video_model.extra" in table(caplog)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"depth": 1}, "unknown"),
        ({"depth": 3}, "missing"),
        ({"embed_dim": 48}, "of another shape"),
        ({"patch_size": 16}, "shape"),
    ],
)
def test_a_model_of_another_size_is_refused(model, folder, tmp_path, change, message):
    torch.save(model.state_dict(), tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=message):
        load_weights(tiny_models.build_miles(folder, **change), tmp_path / "x.pth")


@pytest.mark.parametrize("how", ["zeros", "linear", "nearest"])
@pytest.mark.parametrize("old, new", [(1, 4), (4, 8), (8, 4), (4, 1), (4, 4)])
def test_stretch_time(how, old, new):
    embed_1TD = torch.randn(1, old, 6)
    made = stretch_time(embed_1TD, new, how)
    assert made.shape == (1, new, 6) and made.dtype == embed_1TD.dtype
    if how == "zeros":
        kept = min(old, new)
        assert (
            torch.equal(made[:, :kept], embed_1TD[:, :kept])
            and not made[:, kept:].any()
        )
    elif how == "nearest":
        assert all(
            torch.equal(made[0, i], embed_1TD[0, i * old // new]) for i in range(new)
        )
    else:
        places = ((torch.arange(new) + 0.5) * old / new - 0.5).clamp(0, old - 1)
        low = places.long().clamp(max=max(old - 2, 0))
        share = (places - low)[:, None]
        high = (low + 1).clamp(max=old - 1)
        torch.testing.assert_close(
            made[0], embed_1TD[0, low] * (1 - share) + embed_1TD[0, high] * share
        )
    if old == 1 and how != "zeros":
        assert torch.equal(made, embed_1TD.expand(-1, new, -1))
    if how != "linear" and old < new:
        assert torch.equal(stretch_time(made, old, how), embed_1TD)


@pytest.mark.parametrize("old, new", [(4, 8), (2, 3)])
@pytest.mark.parametrize("word, how", [("interp", "nearest"), ("bilinear", "linear")])
def test_frozen_in_times_words_mean_what_it_computes(old, new, word, how):
    """Its interpolation runs over an image of frames x width, of which the width stays."""
    embed_1TD = torch.randn(1, old, 6)
    mode = "nearest" if word == "interp" else "bilinear"
    as_image = F.interpolate(embed_1TD[None], (new, 6), mode=mode)[0]
    assert torch.equal(
        stretch_time(embed_1TD, new, word), stretch_time(embed_1TD, new, how)
    )
    torch.testing.assert_close(stretch_time(embed_1TD, new, word), as_image)


@pytest.mark.parametrize("how", ["zeros", "linear", "nearest"])
@pytest.mark.parametrize("frames", [1, 8])
def test_another_number_of_frames_at_load_time(
    model, folder, tmp_path, caplog, how, frames
):
    caplog.set_level(logging.INFO)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "x.pth")
    spec = tiny_models.arch_config(folder, num_frames=frames, load_temporal_fix=how)
    spec["args"]["load_checkpoint"] = str(tmp_path / "x.pth")
    other = ARCHS.build(spec).eval()
    wanted = stretch_time(model.video_model.temporal_embed.detach(), frames, how)
    assert torch.equal(other.video_model.temporal_embed, wanted)
    assert f"video_model.temporal_embed: 4 -> {frames} frames ({how})" in table(caplog)
    if frames == 8 and how == "zeros":
        assert same(model, other, frames=4), (
            "more places for frames change nothing for the frames there were"
        )


def test_two_words_for_time_are_refused(folder):
    spec = tiny_models.arch_config(folder, load_temporal_fix="linear")
    spec["args"]["load_temporal_fix"] = "nearest"
    with pytest.raises(ConfigError, match="load_temporal_fix: 'nearest' is given, and"):
        ARCHS.build(spec)


def test_an_unknown_word_for_time(model, folder, tmp_path):
    torch.save({"state_dict": model.state_dict()}, tmp_path / "x.pth")
    spec = tiny_models.arch_config(folder, num_frames=8, load_temporal_fix="bicubic")
    spec["args"]["load_checkpoint"] = str(tmp_path / "x.pth")
    with pytest.raises(
        ConfigError,
        match="load_temporal_fix: 'bicubic' is given, one of zeros, linear, nearest",
    ):
        ARCHS.build(spec)


def test_places_on_another_grid(model, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "x.pth")
    wide = tiny_models.build_miles(folder, img_size=[48, 64]).eval()
    load_weights(wide, tmp_path / "x.pth")
    assert "video_model.pos_embed: 16 places -> 6 x 8 (bicubic)" in table(caplog)
    assert wide.encode_video(torch.randn(1, 4, 3, 48, 64))[0].shape == (1, 16)
    torch.save(
        {
            "state_dict": wide.state_dict(),
            "config": {"arch": tiny_models.arch_config(folder, img_size=[48, 64])},
        },
        tmp_path / "wide.pth",
    )
    load_weights(tiny_models.build_miles(folder), tmp_path / "wide.pth")
    torch.save({"state_dict": wide.state_dict()}, tmp_path / "unsaid.pth")
    with pytest.raises(
        ConfigError,
        match="pos_embed: 1 x 49 x 24 in the file, 1 x 17 x 24 in the model",
    ):
        load_weights(tiny_models.build_miles(folder), tmp_path / "unsaid.pth")


def test_resized_places_keep_what_is_smooth():
    rows = torch.linspace(0, 1, 8)[:, None, None].expand(8, 8, 1)
    embed = torch.cat((torch.full((1, 1, 1), 5.0), rows.reshape(1, 64, 1)), 1)
    made = resize_pos_embed(embed, (4, 16))
    assert made.shape == (1, 65, 1) and made[0, 0] == 5
    grid = made[0, 1:].reshape(4, 16)
    assert torch.allclose(grid, grid[:, :1].expand(-1, 16), atol=1e-5) and bool(
        (grid.diff(dim=0) > 0.2).all()
    )


def test_the_teachers_weights(model, folder, tmp_path):
    teacher = tiny_models.build_miles(folder, seed=5).eval()
    own = {
        f"teacher.{name}": tensor
        for name, tensor in teacher.state_dict().items()
        if name.startswith("vid")
    }
    torch.save(
        {
            "state_dict": model.state_dict(),
            "objective": {**own, "mask_token_D": torch.ones(24)},
            "config": {"arch": tiny_models.arch_config(folder)},
        },
        tmp_path / "x.pth",
    )
    taken = restore(tmp_path / "x.pth", teacher=True)
    clip, words = (
        tiny_models.random_batch()["video"],
        tiny_models.random_batch()["text"],
    )
    assert torch.equal(taken.encode_video(clip)[0], teacher.encode_video(clip)[0])
    assert torch.equal(taken.encode_text(words), model.encode_text(words))
    assert same(restore(tmp_path / "x.pth"), model)
    torch.save(
        {
            "state_dict": model.state_dict(),
            "config": {"arch": tiny_models.arch_config(folder)},
        },
        tmp_path / "y.pth",
    )
    with pytest.raises(ConfigError, match="holds no teacher"):
        restore(tmp_path / "y.pth", teacher=True)


def test_restore_of_a_file_that_says_nothing(model, folder, tmp_path):
    torch.save(model.state_dict(), tmp_path / "x.pth")
    with pytest.raises(
        ConfigError, match="x.pth: does not say what model it holds; give a config"
    ):
        restore(tmp_path / "x.pth")
    assert same(model, restore(tmp_path / "x.pth", tiny_models.arch_config(folder)))


def image_vit(**changes):
    torch.manual_seed(0)
    sizes = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 5,
    }
    made = timm.models.VisionTransformer(**{**sizes, **changes}).eval()
    with (
        torch.no_grad()
    ):  # timm starts biases and norms at 0 and 1: a wrong mapping would not show
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def saved(vit, tmp_path: Path, how: str) -> str:
    if how == "folder":
        timm.models.save_for_hf(
            vit, tmp_path / "vit", model_args={}, safe_serialization=True
        )
        return str(tmp_path / "vit")
    path = tmp_path / f"vit.{how}"
    save_file(vit.state_dict(), path) if how == "safetensors" else torch.save(
        vit.state_dict(), path
    )
    return str(path)


@pytest.mark.parametrize("how", ["safetensors", "pth", "folder"])
def test_an_image_vit_as_timm_saves_it(folder, tmp_path, caplog, how):
    caplog.set_level(logging.INFO)
    vit = image_vit()
    if how == "folder":
        vit.pretrained_cfg = {
            "architecture": "vit_tiny_patch16_224",
            "num_classes": 5,
            "input_size": (3, 32, 32),
        }
    model = tiny_models.build_miles(folder, pretrained=saved(vit, tmp_path, how)).eval()
    pictures = torch.randn(3, 1, 3, 32, 32)
    cls_BD, patch_BTND = model.video_model(pictures)
    wanted = vit.forward_features(pictures[:, 0])
    torch.testing.assert_close(
        torch.cat((cls_BD[:, None], patch_BTND[:, 0]), 1), wanted, atol=2e-5, rtol=1e-5
    )
    for row in (
        "left out     2 head.*: classifier, nothing uses it",
        "4 blocks.*.norm3.*: copied from norm1",
        "4 blocks.*.timeattn.qkv.*: temporal: as initialised (zeros)",
        "1 temporal_embed: temporal: zeros",
    ):
        assert row in table(caplog, "/vit"), table(caplog, "/vit")


def test_temporal_layers_copied_from_the_spatial(folder, tmp_path):
    path = saved(image_vit(), tmp_path, "safetensors")
    block = tiny_models.build_miles(
        folder, pretrained=path, time_init="copy"
    ).video_model.blocks[1]
    assert all(
        torch.equal(a, b)
        for a, b in zip(block.attn.parameters(), block.timeattn.parameters())
    )
    assert torch.equal(block.norm3.weight, block.norm1.weight)
    block = tiny_models.build_miles(
        folder, pretrained=path, time_init="rand"
    ).video_model.blocks[1]
    assert (
        not torch.equal(block.attn.proj.weight, block.timeattn.proj.weight)
        and block.timeattn.proj.weight.any()
    )


def test_an_image_vit_of_another_resolution(folder, tmp_path):
    path = saved(image_vit(img_size=64), tmp_path, "safetensors")
    places = tiny_models.build_miles(folder, pretrained=path).video_model.pos_embed
    assert torch.equal(places, resize_pos_embed(load_file(path)["pos_embed"], (4, 4)))


def test_clips_image_tower(tmp_path):
    eps = {"norm_layer": "layernorm", "act_layer": "quick_gelu", "pre_norm": True}
    vit = image_vit(**eps)
    path = saved(vit, tmp_path, "safetensors")
    assert "norm_pre.weight" in load_file(
        path
    ) and "patch_embed.proj.bias" not in load_file(path)
    with pytest.raises(
        ConfigError,
        match="normalises before the blocks .CLIP.; .*base_patch16_clip_224_temporal",
    ):
        init_from_image(SpaceTimeTransformer(**SIZES), path)
    ours = SpaceTimeTransformer(
        **SIZES, pre_norm=True, act="quick_gelu", norm_eps=vit.norm.eps
    ).eval()
    init_from_image(ours, path)
    pictures = torch.randn(3, 1, 3, 32, 32)
    torch.testing.assert_close(
        ours(pictures)[0],
        vit.forward_features(pictures[:, 0])[:, 0],
        atol=2e-5,
        rtol=1e-5,
    )
    with torch.device("meta"):
        clip = SpaceTimeTransformer(
            **SpaceTimeTransformer.sizes["base_patch16_clip_224_temporal"]
        )
    assert clip.image_weights == "vit_base_patch16_clip_224.openai"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"reg_tokens": 2}, r"unknown \(reg_token"),
        ({"init_values": 0.1}, r"unknown \(blocks.0.ls1.gamma"),
        ({"depth": 3}, "unknown"),
        ({"embed_dim": 48}, "of another shape"),
        ({"global_pool": "avg", "class_token": False}, r"missing \(cls_token"),
    ],
)
def test_vits_that_do_not_map_are_refused(tmp_path, changes, message):
    path = saved(image_vit(**changes), tmp_path, "safetensors")
    with pytest.raises(ConfigError, match=f"{message}.*It must hold a plain ViT"):
        init_from_image(SpaceTimeTransformer(**SIZES), path)


def test_names_and_paths_of_image_vits(folder, tmp_path, model):
    with pytest.raises(
        ConfigError,
        match=r"neither a path nor a timm model with weights \(nearest: vit_base",
    ):
        tiny_models.build_miles(folder, pretrained="vit_base_patch16_244.augreg_in21k")
    with pytest.raises(FileNotFoundError, match="no such file"):
        tiny_models.build_miles(folder, pretrained="weights/vit.safetensors")
    with pytest.raises(FileNotFoundError, match=f"looked for {Path.home()}/absent.pth"):
        tiny_models.build_miles(folder, pretrained="~/absent.pth")
    torch.save(model.video_model.state_dict(), tmp_path / "video.pth")
    with pytest.raises(
        ConfigError,
        match="holds a video encoder, no image ViT; give it as arch.args.load_checkpoint",
    ):
        tiny_models.build_miles(folder, pretrained=str(tmp_path / "video.pth"))


def test_every_size_names_weights_that_timm_has():
    for sizes in SpaceTimeTransformer.sizes.values():
        with torch.device("meta"):
            encoder = SpaceTimeTransformer(**sizes)
            vit = timm.create_model(encoder.image_weights, num_classes=0)
        ours = {name: p.shape for name, p in encoder.state_dict().items()}
        theirs = {name: p.shape for name, p in vit.state_dict().items()}
        assert {
            name: shape for name, shape in theirs.items() if ours.get(name) != shape
        } == {}


def test_text_weights_that_are_missing_stop_the_run(folder, tmp_path, caplog):
    tiny_models.save_text_model(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "layer.1.ffn" not in k},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(
        ConfigError, match=r"4 missing \(transformer.layer.1.ffn.*AutoModel loads whole"
    ):
        tiny_models.build_miles(str(tmp_path))


def test_text_weights_with_a_head(folder, tmp_path, caplog):
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    caplog.set_level(logging.INFO)
    tiny_models.save_text_model(tmp_path)
    network = DistilBertForMaskedLM(DistilBertConfig.from_pretrained(tmp_path))
    network.save_pretrained(tmp_path)
    model = tiny_models.build_miles(str(tmp_path))
    ours, theirs = model.text_model.state_dict(), network.distilbert.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "vocab_layer_norm.*: not of the encoder" in table(caplog)
