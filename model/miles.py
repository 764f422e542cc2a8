"""The dual encoder of MILES (arXiv 2204.12408): clips and captions into one space.

B clips or captions, T frames, N patches a frame, D encoder width, E joint width. Names of parameters are those of the
released checkpoints: video_model, text_model, vid_proj, text_proj.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model import ARCHS
from model.text.hugging_face import build_text_model, make_tokenize, pool
from model.video.build import build_video_model
from parse_config import ConfigError, check_args, plain

Captions = Mapping[str, Tensor] | Sequence[str]


@ARCHS.register("MILES")
@ARCHS.register("FrozenInTime")
class MILES(nn.Module):
    """Video tower, text tower and a projection of each into the joint space.

    `projection`: "minimal" (one linear layer each, ReLU before the text's) or "" (none). `pretrained=False` starts
    neither tower from other weights, whatever the sections say: for a caller that loads a checkpoint next.
    `read`, attached by the caller, turns a list of paths into video_BTCHW for `encode_video`.
    """

    def __init__(self, video_params: Mapping[str, Any], text_params: Mapping[str, Any], projection: str = "minimal",
                 projection_dim: int = 256, load_checkpoint: str | None = "", load_temporal_fix: str = "zeros",
                 strict: bool = True, pretrained: bool = True):
        super().__init__()
        self.settings = {"video_params": plain(video_params), "text_params": plain(text_params),
                         "projection": projection, "projection_dim": projection_dim}
        check_args(build_text_model, text_params, getattr(text_params, "where", "") or "arch.args.text_params")
        fresh = pretrained and not load_checkpoint
        self.video_model = build_video_model(video_params, fresh)
        self.text_model = build_text_model(**{**text_params, **({} if fresh else {"pretrained": False})})
        widths = self.video_model.embed_dim, self.text_model.config.hidden_size
        self.vid_proj, self.text_proj = _projections(projection, *widths, projection_dim)
        self.read: Callable[[Sequence[str]], Tensor] | None = None
        self._tokenize: Callable[[list[str]], dict[str, Tensor]] | None = None

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """{"video": video_BTCHW, "text": tokens} -> (t_BE, v_BE), not normalised."""
        return self.encode_text(batch["text"]), self.encode_video(batch["video"])[0]

    def encode_video(self, video: Tensor | Sequence[str], mask_BTN: Tensor | None = None,
                     mask_token_D: Tensor | None = None) -> tuple[Tensor, Tensor] | Tensor:
        """video_BTCHW -> (v_BE, patch_BTNE), not normalised; a list of paths -> v_BE alone, without gradient."""
        if not isinstance(video, Tensor):
            return self._encode_paths(video)
        cls_BD, patch_BTND = self.video_features(video, mask_BTN, mask_token_D)
        return self.vid_proj(cls_BD), self.vid_proj(patch_BTND)

    def video_features(self, video_BTCHW: Tensor, mask_BTN: Tensor | None = None, mask_token_D: Tensor | None = None,
                       ) -> tuple[Tensor, Tensor]:
        """(cls_BD, patch_BTND): what the projection reads."""
        return self.video_model(video_BTCHW, mask_BTN, mask_token_D)

    def encode_text(self, text: Captions) -> Tensor:
        """Tokens -> t_BE, not normalised; a list of captions -> the same without gradient."""
        if not isinstance(text, Mapping):
            with torch.no_grad():
                return self.encode_text({name: ids.to(self.device) for name, ids in self.tokenize(list(text)).items()})
        return self.text_proj(pool(self.text_features(text), text, self.settings["text_params"].get("pooling", "cls")))

    def text_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Tokens -> last hidden states (B, L, D)."""
        return self.text_model(**tokens).last_hidden_state

    def tokenize(self, captions: list[str]) -> dict[str, Tensor]:
        """Captions -> {"input_ids", "attention_mask"}, padded to the longest, cut at what the text model can take."""
        if self._tokenize is None:
            params = self.settings["text_params"]
            limit = getattr(self.text_model.config, "max_position_embeddings", 512)
            self._tokenize = make_tokenize(params.get("model", "distilbert-base-uncased"),
                                           params.get("max_length") or limit)
        return self._tokenize(captions)

    def grid(self, video_BTCHW: Tensor) -> tuple[int, int, int]:
        """(frames, rows, columns) of patches of a clip."""
        return self.video_model.grid(video_BTCHW)

    def set_gradient_checkpointing(self, on: bool = True):
        """Recompute the towers' blocks in the backward pass instead of keeping their activations."""
        self.video_model.set_gradient_checkpointing(on)
        if on:
            self.text_model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.text_model.gradient_checkpointing_disable()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def _encode_paths(self, paths: Sequence[str]) -> Tensor:
        if self.read is None:
            raise ValueError("encode_video got paths, and nothing that reads them is attached: set model.read to a "
                             "function paths -> video_BTCHW, or load the model with test.load")
        paths = [paths] if isinstance(paths, str) else list(paths)
        with torch.no_grad():
            return self.encode_video(self.read(paths).to(self.device))[0]


def _projections(kind: str, video_width: int, text_width: int, width: int) -> tuple[nn.Module, nn.Module]:
    if kind == "minimal":
        return nn.Sequential(nn.Linear(video_width, width)), nn.Sequential(nn.ReLU(), nn.Linear(text_width, width))
    if kind:
        raise ConfigError(f"arch.args.projection: {kind!r} is given, 'minimal' or '' is needed")
    if video_width != text_width:
        raise ConfigError(f"arch.args.projection: '' needs towers of one width; video has {video_width}, text "
                          f"{text_width}")
    return nn.Identity(), nn.Identity()
