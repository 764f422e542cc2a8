"""The dual encoder of MILES (arXiv 2204.12408): clips and captions into one space.

B clips or captions, T frames, N patches a frame, D encoder width, E joint width. Names of parameters are those of the
released checkpoints: video_model, text_model, vid_proj, text_proj.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from model import ARCHS, pretrained
from model.text.hugging_face import (
    DEFAULT,
    build_text_model,
    load_tokenizer,
    pool,
    set_checkpointing,
    tokenize,
)
from model.video.build import build_video_model
from model.weights import load_weights
from parse_config import ConfigError, check_args, to_plain

Captions = Mapping[str, Tensor] | Sequence[str]
HUB = (
    "revision",
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
)  # where huggingface_hub looks


@ARCHS.register("MILES")
@ARCHS.register("FrozenInTime")
class MILES(nn.Module, PyTorchModelHubMixin):
    """Video tower, text tower and a projection of each into the joint space.

    `projection`: "minimal" (one linear layer each, ReLU before the text's) or "" (none). `load_temporal_fix` (also in
    `video_params`): see `stretch_time`; `strict=False` loads what fits of `load_checkpoint`. `pretrained=False` starts
    neither tower from other weights, whatever the sections say: for a caller that loads a checkpoint next.

    Attributes: `settings` (the arguments, plain), `preprocessing` (`video_params` of a data set: clips as the model
    wants them), `facts` (for the model card), `read` (attached by the caller: paths -> video_BTCHW).
    """

    def __init__(
        self,
        video_params: Mapping[str, Any],
        text_params: Mapping[str, Any],
        projection: str = "minimal",
        projection_dim: int = 256,
        load_checkpoint: str | None = "",
        load_temporal_fix: str = "zeros",
        strict: bool = True,
        pretrained: bool = True,
    ):
        super().__init__()
        self.settings = {
            "video_params": to_plain(video_params),
            "text_params": to_plain(text_params),
            "projection": projection,
            "projection_dim": projection_dim,
        }
        check_args(
            build_text_model,
            text_params,
            getattr(text_params, "json_path", "") or "arch.args.text_params",
        )
        fresh = pretrained and not load_checkpoint
        self.video_model = build_video_model(video_params, fresh)
        self.text_model = build_text_model(
            **{**text_params, **({} if fresh else {"pretrained": False})}
        )
        widths = self.video_model.embed_dim, self.text_model.config.hidden_size
        self.vid_proj, self.text_proj = _projections(projection, *widths, projection_dim)
        self.preprocessing = {
            "num_frames": self.video_model.num_frames,
            "input_res": self.video_model.img_size[0],
        }
        self.facts: dict[str, str] = {}
        self.read: Callable[[Sequence[str]], Tensor] | None = None
        self._tokenizer = None
        if load_checkpoint:
            load_weights(
                self,
                load_checkpoint,
                strict=strict,
                temporal_fix=video_params.get("load_temporal_fix", load_temporal_fix),
            )

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """{"video": video_BTCHW, "text": tokens} -> (t_BE, v_BE), not normalised."""
        return self.encode_text(batch["text"]), self.encode_video(batch["video"])[0]

    def encode_video(
        self,
        video: Tensor | Sequence[str],
        mask_BTN: Tensor | None = None,
        mask_token_D: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | Tensor:
        """video_BTCHW -> (v_BE, patch_BTNE), not normalised; a list of paths -> v_BE alone, without gradient."""
        if not isinstance(video, Tensor):
            return self._encode_paths(video)
        cls_BD, patch_BTND = self.video_features(video, mask_BTN, mask_token_D)
        return self.vid_proj(cls_BD), self.vid_proj(patch_BTND)

    def video_features(
        self,
        video_BTCHW: Tensor,
        mask_BTN: Tensor | None = None,
        mask_token_D: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(cls_BD, patch_BTND): what the projection reads."""
        return self.video_model(video_BTCHW, mask_BTN, mask_token_D)

    def encode_text(self, text: Captions) -> Tensor:
        """Tokens -> t_BE, not normalised; a list of captions -> the same without gradient."""
        if not isinstance(text, Mapping):
            return self._in_parts(
                self._encode_captions, [text] if isinstance(text, str) else list(text)
            )
        return self.text_proj(
            pool(self.text_features(text), text, self.settings["text_params"].get("pooling", "cls"))
        )

    def text_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Tokens -> last hidden states (B, L, D)."""
        return self.text_model(**tokens).last_hidden_state

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> {"input_ids", "attention_mask"}, padded to the longest, cut at what the text model can take."""
        longest = self.settings["text_params"].get("max_length") or getattr(
            self.text_model.config, "max_position_embeddings", 512
        )
        return tokenize(self.tokenizer, captions, longest)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The text model's own, read when it is first needed."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.settings["text_params"].get("model", DEFAULT))
        return self._tokenizer

    def grid(self, video_BTCHW: Tensor) -> tuple[int, int, int]:
        """(frames, rows, columns) of patches of a clip."""
        return self.video_model.grid(video_BTCHW)

    def set_gradient_checkpointing(self, on: bool = True):
        """Recompute the towers' blocks in the backward pass instead of keeping their activations."""
        self.video_model.set_gradient_checkpointing(on)
        set_checkpointing(self.text_model, on)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def _save_pretrained(self, save_directory: Path):
        pretrained.save(self, Path(save_directory))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **changes: Any) -> "MILES":
        """A model in eval mode from a folder (`save_pretrained`, scripts/export.py) or a hub id.

        `changes` lie over the folder's arguments (`video_params={"num_frames": 8}`); revision, cache_dir, token,
        force_download and local_files_only are huggingface_hub's. Raises ConfigError, FileNotFoundError.
        """
        where = {key: changes.pop(key) for key in HUB if key in changes}
        return pretrained.load(
            cls, pretrained.locate(pretrained_model_name_or_path, **where), changes
        )

    def _encode_paths(self, paths: Sequence[str]) -> Tensor:
        if self.read is None:
            raise ValueError(
                "encode_video got paths, and nothing that reads them is attached: set model.read to a "
                "function paths -> video_BTCHW, or load the model with test.load"
            )
        return self._in_parts(
            lambda part: self.encode_video(self.read(part).to(self.device))[0],
            [paths] if isinstance(paths, str | os.PathLike) else list(paths),
        )

    def _encode_captions(self, captions: Sequence[str]) -> Tensor:
        return self.encode_text(
            {name: ids.to(self.device) for name, ids in self.tokenize(captions).items()}
        )

    @torch.no_grad()
    def _in_parts(self, encode: Callable[[Sequence], Tensor], things: Sequence) -> Tensor:
        """On the CPU one at a time, as the evaluator does: so an embedding does not depend on its company."""
        size = 1 if self.device.type == "cpu" else 64
        return torch.cat(
            [encode(things[start : start + size]) for start in range(0, len(things), size)]
        )


def _projections(
    kind: str, video_width: int, text_width: int, width: int
) -> tuple[nn.Module, nn.Module]:
    if kind == "minimal":
        return nn.Sequential(nn.Linear(video_width, width)), nn.Sequential(
            nn.ReLU(), nn.Linear(text_width, width)
        )
    if kind:
        raise ConfigError(f"arch.args.projection: {kind!r} is given, 'minimal' or '' is needed")
    if video_width != text_width:
        raise ConfigError(
            f"arch.args.projection: '' needs towers of one width; video has {video_width}, text "
            f"{text_width}"
        )
    return nn.Identity(), nn.Identity()
