"""Text towers of other kinds: pooling by the model's type, towers of pairs, encoder-decoders, lengths, padding."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (  # type: ignore[attr-defined]  # BertTokenizerFast is made at run time
    AutoModel,
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2Model,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    SiglipConfig,
    SiglipModel,
    T5Config,
    T5EncoderModel,
    T5Model,
    ViTConfig,
    ViTModel,
    dynamic_module_utils,
)

from model import hub, load_model
from model.miles import MILES
from model.text import hugging_face
from model.text.pooling import HIGHEST_ID, eos_id, evaluating, pool
from parse_config import Config, ConfigError
from scripts.data_check.text import open_text_model
from scripts.synthetic import tiny_models
from scripts.synthetic.tiny_models import WORDS

SEP = WORDS.index("[SEP]")
CAPTIONS = ["a red dog", "the cat runs", "a man jumps left"]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 34,
}
CLIP_SIZES = {
    **SIZES,
    "bos_token_id": WORDS.index("[CLS]"),
    "eos_token_id": SEP,
    "pad_token_id": 0,
}
VISION_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
T5_SIZES = {
    "vocab_size": len(WORDS),
    "d_model": 32,
    "d_ff": 64,
    "d_kv": 16,
    "num_layers": 2,
    "num_heads": 2,
}
BART_SIZES = {
    "vocab_size": len(WORDS),
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 34,
}
GPT2_SIZES = {
    "vocab_size": len(WORDS),
    "n_embd": 32,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 34,
}
PAIR = {"text_config": CLIP_SIZES, "vision_config": VISION_SIZES}
KINDS = {
    "clip_text": lambda: CLIPTextModel(CLIPTextConfig(**CLIP_SIZES)),
    "clip": lambda: CLIPModel(CLIPConfig(**PAIR, projection_dim=16)),
    "siglip": lambda: SiglipModel(SiglipConfig(**PAIR)),
    "t5": lambda: T5Model(T5Config(**T5_SIZES)),
    "t5_encoder": lambda: T5EncoderModel(T5Config(**T5_SIZES)),
    "bart": lambda: BartModel(BartConfig(**BART_SIZES)),
    "gpt2": lambda: GPT2Model(GPT2Config(**GPT2_SIZES)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SIZES, pad_token_id=1)),
    "mpnet": lambda: MPNetModel(MPNetConfig(**SIZES, pad_token_id=1)),
    "bert": lambda: BertModel(BertConfig(**SIZES)),
    "bert_decoder": lambda: BertModel(BertConfig(**SIZES, is_decoder=True)),
    "vit": lambda: ViTModel(ViTConfig(**VISION_SIZES)),
}
CAUSAL = ("clip_text", "clip", "gpt2", "bert_decoder")


def save(kind: str, folder: Path, **tokens: str | None) -> str:
    """A random model of a kind with the tiny tokenizer, whose special `tokens` may be others, as a folder."""
    torch.manual_seed(0)
    model = KINDS[kind]()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    vocabulary = {word: token_id for token_id, word in enumerate(WORDS)}
    tokenizer = BertTokenizerFast(vocab=vocabulary)
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(folder)
    return str(folder)


def build(folder: str, **text_params) -> MILES:
    spec = tiny_models.arch_config(folder)
    spec["args"]["text_params"].update(text_params)
    torch.manual_seed(0)
    return MILES(**spec["args"]).eval()


def one_line(error_info) -> str:
    message = str(error_info.value)
    assert "\n" not in message
    return message


def spread(model: MILES) -> float:
    """The largest difference of two captions' embeddings."""
    t_CE = model.encode_text(CAPTIONS)
    return float((t_CE[0] - t_CE[1:]).abs().max())


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_first_token_of_a_causal_model_is_refused(kind, tmp_path):
    folder = save(kind, tmp_path)
    for text_params in ({}, {"pooling": "cls"}, {"pretrained": False}):
        with pytest.raises(ConfigError, match="all captions would have") as error:
            build(folder, **text_params)
        message = one_line(error)
        assert message.startswith("arch.args.text_params.pooling: 'cls'")
        assert "set it to auto, last, eos or mean" in message


@pytest.mark.parametrize(
    "kind, pooling",
    [
        ("clip_text", "eos"),
        ("clip", "eos"),
        ("siglip", "last"),
        ("gpt2", "last"),
        ("bert_decoder", "last"),
        ("t5", "mean"),
        ("t5_encoder", "mean"),
        ("bert", "cls"),
        ("roberta", "cls"),
        ("mpnet", "cls"),
    ],
)
def test_auto_goes_by_the_model(kind, pooling, tmp_path):
    model = build(save(kind, tmp_path), pooling="auto")
    assert model.text_use.pooling == pooling
    assert spread(model) > 1e-3
    model.train()
    model.encode_text(model.tokenize(CAPTIONS)).sum().backward()
    idle = [
        name
        for name, parameter in model.text_model.named_parameters()
        if parameter.grad is None
    ]
    assert not idle


def test_the_default_is_the_first_token(tmp_path):
    model = build(save("bert", tmp_path))
    hidden_BLD = model.text_features(model.tokenize(["a red dog"]))
    expected = model.text_proj(hidden_BLD[:, 0])
    torch.testing.assert_close(model.encode_text("a red dog"), expected)


@pytest.mark.parametrize("eos_token_id", [SEP, 2])
def test_eos_is_what_clip_itself_pools(eos_token_id, tmp_path):
    """With 2, of configurations before 2023, CLIP takes the highest id."""
    torch.manual_seed(0)
    config = CLIPTextConfig(**{**CLIP_SIZES, "eos_token_id": eos_token_id})
    CLIPTextModel(config).save_pretrained(tmp_path)
    tokenizer = BertTokenizerFast(vocab={word: n for n, word in enumerate(WORDS)})
    tokenizer.save_pretrained(tmp_path)
    model = build(str(tmp_path), pooling="eos")
    tokens = model.tokenize(CAPTIONS)
    output = model.text_model(**tokens)
    torch.testing.assert_close(
        model.encode_text(tokens), model.text_proj(output.pooler_output)
    )
    assert eos_id(model.text_model) == (SEP if eos_token_id == SEP else HIGHEST_ID)


def test_a_pair_gives_its_text_tower(tmp_path):
    folder = save("clip", tmp_path)
    whole = AutoModel.from_pretrained(folder)
    model = build(folder, pooling="auto")
    assert type(model.text_model) is CLIPTextModel
    for name, tensor in whole.text_model.state_dict().items():
        assert torch.equal(tensor, model.text_model.state_dict()[name]), name
    assert not any("vision" in name for name in model.text_model.state_dict())


def test_t5_gives_its_encoder(tmp_path):
    folder = save("t5", tmp_path)
    model = build(folder, pooling="mean")
    assert not any("decoder" in name for name in model.text_model.state_dict())
    tokens = model.tokenize(["a red dog"])
    expected = AutoModel.from_pretrained(folder).encoder(**tokens).last_hidden_state
    torch.testing.assert_close(
        model.encode_text(tokens), model.text_proj(expected.mean(1))
    )


@pytest.mark.parametrize(
    "kind, words",
    [
        ("bart", "is an encoder-decoder (bart)"),
        ("vit", "which takes pixel_values and no text"),
    ],
)
def test_what_is_no_text_encoder_is_one_line(kind, words, tmp_path):
    folder = save(kind, tmp_path)
    for pretrained in (True, False):
        with pytest.raises(ConfigError) as error:
            build(folder, pretrained=pretrained)
        message = one_line(error)
        assert words in message and message.startswith("arch.args.text_params.model")
        assert "take a text encoder" in message


@pytest.mark.parametrize(
    "kind, length", [("roberta", 32), ("mpnet", 32), ("bert", 34), ("t5", 512)]
)
def test_the_longest_text_has_a_position_for_each_token(kind, length, tmp_path):
    """Of RoBERTa's 34 rows two are never used: 32 tokens fit, as 512 of its 514."""
    folder = save(kind, tmp_path)
    model = build(folder, pooling="auto")
    tokens = model.tokenize(["dog " * 600])
    assert tokens["input_ids"].shape == (1, length) and model.text_use.max_length == (
        length
    )
    assert model.encode_text(tokens).isfinite().all()
    config = Config({"arch": {"args": {"text_params": {"model": folder}}}})
    assert open_text_model(config).max_length == length
    if kind != "t5":
        with pytest.raises(ConfigError, match=f"takes 1 to {length} tokens") as error:
            build(folder, max_length=length + 1)
        assert one_line(error).startswith("arch.args.text_params.max_length: ")


@pytest.mark.parametrize(
    "max_length, words",
    [(0, "takes 1 to 34 tokens"), (-3, "takes 1 to 34"), (2, "3 or more are needed")],
)
def test_a_length_that_leaves_no_word_is_one_line(max_length, words, tmp_path):
    folder = save("bert", tmp_path)
    with pytest.raises(ConfigError, match=words) as error:
        build(folder, max_length=max_length).encode_text("a dog")
    assert "arch.args.text_params.max_length" in one_line(error)


def padded(side: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Random hidden states of two texts of 3 and 5 tokens, padded on one side."""
    generator = torch.Generator().manual_seed(0)
    hidden_BLD = torch.randn(2, 5, 4, generator=generator)
    mask_BL = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    ids_BL = torch.tensor([[7, 8, 9, 0, 0], [7, 8, 9, 5, 6]])
    if side == "left":
        mask_BL, ids_BL = mask_BL.roll(2, 1), ids_BL.roll(2, 1)
        mask_BL[1] = 1
    return hidden_BLD, {"input_ids": ids_BL, "attention_mask": mask_BL}


@pytest.mark.parametrize("side, last", [("right", 2), ("left", 4)])
def test_last_is_the_last_real_token_on_either_side(side, last):
    hidden_BLD, tokens = padded(side)
    pooled_BD = pool(hidden_BLD, tokens, "last")
    assert torch.equal(pooled_BD, torch.stack([hidden_BLD[0, last], hidden_BLD[1, 4]]))


@pytest.mark.parametrize("side, place", [("right", 1), ("left", 3)])
def test_eos_is_the_first_one_and_never_padding(side, place):
    """Padding may have the end-of-text token's id; a text without one has its last token."""
    hidden_BLD, tokens = padded(side)
    tokens["input_ids"][tokens["attention_mask"] == 0] = 8
    tokens["input_ids"][1] = 1
    pooled_BD = pool(hidden_BLD, tokens, "eos", 8)
    assert torch.equal(pooled_BD[0], hidden_BLD[0, place])
    assert torch.equal(pooled_BD[1], hidden_BLD[1, 4])


def test_a_tokenizer_that_pads_on_the_left_is_turned(tmp_path):
    """With positions that count from the left, a caption must not move with its neighbours."""
    folder = save("gpt2", tmp_path, padding_side="left")
    model = build(folder, pooling="last")
    captions = ["a dog", "the man runs left of the red cat"]
    together = model.encode_text(captions, batch_size=2)
    alone = model.encode_text(captions, batch_size=1)
    torch.testing.assert_close(together, alone)


def test_a_model_without_a_padding_token(tmp_path):
    folder = save("gpt2", tmp_path / "a", pad_token=None, eos_token="[SEP]")
    model = build(folder, pooling="auto")
    torch.testing.assert_close(
        model.encode_text(CAPTIONS, batch_size=3), model.encode_text(CAPTIONS)
    )
    folder = save("gpt2", tmp_path / "b", pad_token=None, unk_token=None)
    with pytest.raises(ConfigError, match="has no padding token") as error:
        build(folder, pooling="auto").encode_text(CAPTIONS)
    one_line(error)


def test_an_empty_caption_has_an_embedding(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = save("gpt2", tmp_path)
    words = Tokenizer(models.WordLevel(dict(zip(WORDS, range(99))), unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="[SEP]")
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    tokenizer.save_pretrained(folder)
    model = build(folder, pooling="last")
    for captions in ([""], ["", "a dog"]):
        assert model.encode_text(captions, batch_size=2).isfinite().all()


def test_eos_needs_a_token_that_ends_texts(tmp_path):
    folder = save("gpt2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for eos_token_id, words in (
        (None, "names no end-of-text token"),
        (9, r"does not end texts with the model's end-of-text token \(id 9\)"),
    ):
        config["eos_token_id"] = eos_token_id
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=words) as error:
            build(folder, pooling="eos").encode_text("a dog")
        assert "set it to last or mean" in one_line(error)


def write_sentence_transformers(folder: Path, mode: str, length: object = 8) -> None:
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, mode: True, "include_prompt": True}
    pooling.setdefault("pooling_mode_cls_token", False)
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": length, "do_lower_case": False})
    )


@pytest.mark.parametrize(
    "mode, pooling",
    [
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_lasttoken", "last"),
    ],
)
def test_a_sentence_transformers_folder_states_pooling_and_length(
    mode, pooling, tmp_path
):
    folder = save("bert", tmp_path)
    write_sentence_transformers(tmp_path, mode)
    model = build(folder, pooling="auto")
    assert model.text_use.pooling == pooling and model.text_use.max_length == 8
    assert model.tokenize(["dog " * 20])["input_ids"].shape == (1, 8)
    assert build(folder, pooling="auto", max_length=20).text_use.max_length == 20
    assert build(folder, pooling="mean").text_use.pooling == "mean"


@pytest.mark.parametrize(
    "mode, length, words",
    [
        ("pooling_mode_max_tokens", 8, "pooling_mode_max_tokens"),
        ("pooling_mode_mean_tokens", "many", "'many' is given"),
        ("pooling_mode_mean_tokens", -1, "-1 is given"),
    ],
)
def test_what_sentence_transformers_states_and_we_lack(mode, length, words, tmp_path):
    folder = save("bert", tmp_path)
    write_sentence_transformers(tmp_path, mode, length)
    with pytest.raises(ConfigError) as error:
        build(folder, pooling="auto")
    assert words in one_line(error)


def test_what_auto_chose_goes_into_folders_and_checkpoints(tmp_path):
    """Also where the text model's folder, which states it, is gone."""
    folder = save("bert", tmp_path / "text")
    write_sentence_transformers(tmp_path / "text", "pooling_mode_mean_tokens")
    model = build(folder, pooling="auto")
    model.save_pretrained(tmp_path / "exported")
    arch = tiny_models.arch_config(folder)
    arch["args"]["text_params"]["pooling"] = "auto"
    checkpoint = {
        "state_dict": model.state_dict(),
        "config": {"arch": arch},
        "text_files": model.text_files(),
    }
    torch.save(checkpoint, tmp_path / "model.pth")
    (tmp_path / "text").rename(tmp_path / "gone")
    for path in (tmp_path / "exported", tmp_path / "model.pth"):
        loaded = load_model(path, "cpu")
        assert loaded.text_use == model.text_use
        assert torch.equal(loaded.encode_text(CAPTIONS), model.encode_text(CAPTIONS))


@pytest.mark.parametrize("kind", ["clip", "siglip", "t5", "gpt2"])
def test_every_kind_comes_back_from_an_exported_folder(kind, tmp_path):
    model = build(save(kind, tmp_path / "text"), pooling="auto")
    model.save_pretrained(tmp_path / "exported")
    loaded = load_model(tmp_path / "exported", "cpu")
    assert type(loaded.text_model) is type(model.text_model)
    assert torch.equal(loaded.encode_text(CAPTIONS), model.encode_text(CAPTIONS))


CODE = """
from pathlib import Path
from transformers import BertConfig, BertModel
Path(__file__).with_name("ran").touch()
class OwnConfig(BertConfig):
    model_type = "own"
class OwnModel(BertModel):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """A text model with Python code of its own; whoever reads stdin fails."""
    save("bert", tmp_path / "own")
    config = json.loads((tmp_path / "own/config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {
        "AutoConfig": "own_code.OwnConfig",
        "AutoModel": "own_code.OwnModel",
    }
    (tmp_path / "own/config.json").write_text(json.dumps(config))
    (tmp_path / "own/own_code.py").write_text(CODE)

    class NoInput:
        def readline(self, *_):
            raise AssertionError("stdin was read")

        fileno = read = readline

    monkeypatch.setattr(sys, "stdin", NoInput())
    monkeypatch.setattr("builtins.input", NoInput().readline)
    return tmp_path / "own"


def test_code_of_a_model_is_refused_without_a_question(own_code, tmp_path):
    for text_params in (
        {},
        {"pretrained": False},
        {"trust_remote_code": False},
    ):
        with pytest.raises(ConfigError) as error:
            build(str(own_code), **text_params)
        message = one_line(error)
        assert "comes with Python code of its own, which is not run" in message
        assert "arch.args.text_params.trust_remote_code to true" in message


def test_code_of_a_model_is_run_if_set_by_name(own_code, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "c"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = build(str(own_code), trust_remote_code=True)
    assert type(model.text_model).__name__ == "OwnModel" and spread(model) > 1e-3
    assert model.text_files() == {}
    with pytest.raises(ConfigError, match="Python code of its own") as error:
        model.save_pretrained(tmp_path / "exported")
    one_line(error)


def test_a_checkpoint_does_not_decide_that_code_is_run(own_code, tmp_path):
    plain = save("bert", tmp_path / "plain")
    state_dict = build(plain).state_dict()
    arch = tiny_models.arch_config(str(own_code))
    arch["args"]["text_params"]["trust_remote_code"] = True
    torch.save(
        {"state_dict": state_dict, "config": {"arch": arch}}, tmp_path / "model.pth"
    )
    with pytest.raises(ConfigError, match="which is not run") as error:
        load_model(tmp_path / "model.pth", "cpu")
    one_line(error)


def test_a_path_that_is_not_there_is_called_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "reachable", lambda: False)
    (tmp_path / "data").mkdir()
    (tmp_path / "file").touch()
    for name, words in (
        ("data/demo/text_model", f"no such folder (looked for {tmp_path}/data/demo"),
        ("data/text_model", f"no such folder (looked for {tmp_path}/data/text_model)"),
        ("./text", f"no such folder (looked for {tmp_path}/text)"),
        ("/absent/text", "no such folder (looked for /absent/text)"),
        ("~/absent-text", f"no such folder (looked for {Path.home()}/absent-text)"),
        ("file", "is a file, a folder is needed"),
        ("", "a hub name or the path of a folder is needed"),
    ):
        for call in (hugging_face.build_text_model, hugging_face.load_tokenizer):
            with pytest.raises(ConfigError) as error:
                call(name)
            message = one_line(error)
            assert words in message and "hf download" not in message, name
    with pytest.raises(ConfigError, match="hf download owner/text"):
        hugging_face.build_text_model("owner/text")


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save("bert", tmp_path / "text")
    model = build("~/text")
    assert model.encode_text(CAPTIONS).shape == (3, 16)
    model.save_pretrained(tmp_path / "exported")
    assert load_model("~/exported", "cpu").embedding_size == 16


@pytest.mark.parametrize(
    "name, content",
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "nothing-known"}'),
        ("config.json", "[]"),
        ("model.safetensors", "damaged"),
        ("tokenizer.json", "{"),
        ("tokenizer.json", None),
        ("config.json", None),
        ("model.safetensors", None),
    ],
)
def test_a_damaged_folder_is_one_line(name, content, tmp_path):
    folder = save("bert", tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as error:
        build(folder).encode_text("a dog")
    assert folder in one_line(error)


def test_a_tokenizer_of_more_words_than_embeddings(tmp_path):
    folder = save("bert", tmp_path)
    words = [*WORDS, "horse"]
    BertTokenizerFast(vocab={w: n for n, w in enumerate(words)}).save_pretrained(folder)
    with pytest.raises(ConfigError, match="do not belong together") as error:
        build(folder).encode_text("a dog")
    assert f"{len(words)} tokens and the model {len(WORDS)}" in one_line(error)


def test_every_part_gets_its_mode_back():
    parts = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    parts[1].eval()
    with evaluating(parts):
        assert not any(part.training for part in parts.modules())
    assert parts.training and parts[0].training and not parts[1].training
