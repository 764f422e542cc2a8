"""The dual encoder of MILES (arXiv 2204.12408): clips and captions into one space.

B clips or captions of a batch, C captions, V videos, T frames, N patches per frame, D encoder width, E joint width.
Names of parameters are those of the released checkpoints: video_model, text_model, vid_proj, text_proj.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model import ARCHS, pretrained
from model.text import own_files
from model.text.hugging_face import (
    DEFAULT,
    build_text_model,
    check_tokenizer,
    load_tokenizer,
    set_checkpointing,
    text_use,
    tokenize,
)
from model.text.pooling import eos_id, evaluating, pool
from model.video import VideoEncoder
from model.video.build import build_video_model
from model.weights import load_weights
from parse_config import ConfigError, UserError, check_args, to_plain

Captions = str | Sequence[str]
Video = (
    str | os.PathLike | np.ndarray | Tensor
)  # a path, uint8 frames (T, H, W, 3) of any T, or one picture (H, W, 3)
Embeddings = Tensor | np.ndarray | Sequence[Tensor | np.ndarray]
GPU_BATCH_SIZE = 64
# Arguments of `from_pretrained` that are huggingface_hub's.
HUB_ARGUMENTS = ("revision", "cache_dir", "force_download", "local_files_only", "token")


class ClipReader(Protocol):
    """Reads videos as the model wants them; data_loader.decode.clip_reader.ClipReader is one."""

    video: Any  # settings: num_frames, input_res, reader, deadline, ...
    transform: Callable[[Tensor, torch.Generator | None], Tensor]

    def __call__(self, videos: Sequence[Video]) -> Tensor:
        """Videos -> float32 video_BTCHW."""
        ...


@ARCHS.register("MILES")
@ARCHS.register("FrozenInTime")
class MILES(nn.Module, PyTorchModelHubMixin):
    """Video encoder, text encoder and a projection of each into the joint space.

    `pretrained=False` starts neither encoder from other weights, whatever the sections say: for a caller that loads a
    checkpoint next.

    Attributes: `settings` (the arguments as plain data), `preprocessing` (`video_params` of a data set: clips as the
    model wants them), `clip_reader` (what `embed_videos` reads with, or None; see `set_clip_reader`).

    Args:
        video_params: the video encoder, see arch.args.video_params; default: ViT-B/16 for 4 frames
        text_params: the text encoder, see arch.args.text_params; default: DistilBERT
        projection: "minimal" (one linear layer each, ReLU before the text's) or "" (none)
        projection_dim: width of the joint space
        load_checkpoint: checkpoint to start from: of this project, MILES, MCQ or Frozen in Time
        load_temporal_fix: temporal embedding for another number of frames: zeros, linear or nearest; "bilinear" and
            "interp", Frozen in Time's words for the last two, are read too
        strict: stop where a name of the checkpoint does not fit; false loads what fits
    """

    video_model: VideoEncoder
    text_model: PreTrainedModel
    vid_proj: nn.Module
    text_proj: nn.Module

    def __init__(
        self,
        video_params: Mapping[str, Any] | None = None,
        text_params: Mapping[str, Any] | None = None,
        projection: str = "minimal",
        projection_dim: int = 256,
        load_checkpoint: str | None = "",
        load_temporal_fix: str = "zeros",
        strict: bool = True,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        video_params = {} if video_params is None else video_params
        text_params = {} if text_params is None else text_params
        self.settings: dict[str, Any] = {
            "video_params": to_plain(video_params),
            "text_params": to_plain(text_params),
            "projection": projection,
            "projection_dim": projection_dim,
        }
        text_json_path = (
            getattr(text_params, "json_path", "") or "arch.args.text_params"
        )
        check_args(build_text_model, text_params, text_json_path)
        text_args = dict(text_params)
        from_pretrained = pretrained and not load_checkpoint
        if not from_pretrained:
            text_args["pretrained"] = False
        self.video_model = build_video_model(video_params, from_pretrained)
        self.text_model = build_text_model(**text_args)
        self.text_use = text_use(self.text_model, **text_args)
        self.vid_proj, self.text_proj = _projections(
            projection,
            self.video_model.embed_dim,
            self.text_model.config.hidden_size,
            projection_dim,
        )
        self.preprocessing: dict[str, Any] = {
            "num_frames": self.video_model.num_frames,
            "input_res": self.video_model.img_size[0],
        }
        self._clip_reader: ClipReader | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._text_files: dict[str, Tensor] = {}
        temporal_fix = _one_temporal_fix(video_params, load_temporal_fix)
        if load_checkpoint:
            load_weights(
                self, load_checkpoint, strict=strict, temporal_fix=temporal_fix
            )

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """{"video": video_BTCHW, "text": tokens} -> (t_BE, v_BE), not normalised."""
        return self.encode_text(batch["text"]), self.encode_video(batch["video"])[0]

    def encode_video(
        self,
        video_BTCHW: Tensor,
        mask_BTN: Tensor | None = None,
        mask_token_D: Tensor | None = None,
        patch_features: str = "last",
    ) -> tuple[Tensor, Tensor]:
        """Preprocessed clips -> (v_BE, patch_BTNE), not normalised. TypeError for anything but a tensor.

        patch_features: "last", the patches' outputs, or "value": what each gives to CLS, where words find their place
            best (docs/visualize.md)
        """
        if not isinstance(video_BTCHW, Tensor):
            raise TypeError(
                f"encode_video takes a tensor video_BTCHW of preprocessed clips, not "
                f"{type(video_BTCHW).__name__}; embed_videos takes paths and frames"
            )
        cls_BD, patch_BTND = self.video_features(
            video_BTCHW, mask_BTN, mask_token_D, patch_features=patch_features
        )
        return self.vid_proj(cls_BD), self.vid_proj(patch_BTND)

    def video_features(
        self,
        video_BTCHW: Tensor,
        mask_BTN: Tensor | None = None,
        mask_token_D: Tensor | None = None,
        layers: int = 1,
        patch_features: str = "last",
    ) -> tuple[Tensor, Tensor]:
        """(cls_BD, patch_BTND): what the projection reads, see `VideoEncoder.forward`."""
        return self.video_model(
            video_BTCHW, mask_BTN, mask_token_D, layers, patch_features
        )

    @overload
    def embed_videos(
        self,
        videos: Video | Sequence[Video],
        batch_size: int | None = ...,
        normalize: bool = ...,
        progress: bool = ...,
        numpy: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def embed_videos(
        self,
        videos: Video | Sequence[Video],
        batch_size: int | None = ...,
        normalize: bool = ...,
        progress: bool = ...,
        *,
        numpy: Literal[True],
    ) -> np.ndarray: ...

    def embed_videos(
        self,
        videos: Video | Sequence[Video],
        batch_size: int | None = None,
        normalize: bool = False,
        progress: bool = False,
        numpy: bool = False,
    ) -> Tensor | np.ndarray:
        """Embeds videos: v_VE, without gradient and dropout. Frames are picked and transformed as at test.

        Args:
            videos: paths, uint8 frames (T, H, W, 3) of any T, or pictures (H, W, 3); a single one gives one row
            batch_size: videos at once; default: 1 on the CPU, 64 on a GPU
            normalize: scale the embeddings to length 1
            progress: show a progress bar
            numpy: return an array instead of a tensor

        Raises:
            BrokenVideo, FileNotFoundError: a file that cannot be read
            UserError: frames of another type or shape
            ValueError: the model has no clip reader, see `load_model`
        """
        reader = self.clip_reader
        if reader is None:
            raise ValueError(
                "embed_videos has no clip reader: open the model with model.load_model, or call "
                "set_clip_reader"
            )

        def embed(batch: Sequence[Video]) -> Tensor:
            v_BE, _ = self.encode_video(reader(batch).to(self.device))
            return v_BE

        progress_label = "videos" if progress else None
        v_VE = self._in_batches(embed, _as_list(videos), batch_size, progress_label)
        if normalize:
            v_VE = F.normalize(v_VE, dim=-1)
        return v_VE.cpu().numpy() if numpy else v_VE

    def encode_text(
        self,
        text: Mapping[str, Tensor] | Captions,
        batch_size: int | None = None,
        normalize: bool = False,
        progress: bool = False,
    ) -> Tensor:
        """Embeds tokens (t_BE), or captions (t_CE, without gradient and dropout).

        Args:
            text: tokens as `tokenize` returns them, captions, or a single caption
            batch_size: captions at once; default: 1 on the CPU, 64 on a GPU
            normalize: scale the embeddings to length 1
            progress: show a progress bar over captions
        """
        if isinstance(text, Mapping):
            t_BE = self._encode_tokens(text)
        else:
            progress_label = "captions" if progress else None
            t_BE = self._in_batches(
                self._encode_captions, _as_captions(text), batch_size, progress_label
            )
        return F.normalize(t_BE, dim=-1) if normalize else t_BE

    def similarity(
        self,
        text: Embeddings | Captions,
        video: Embeddings | Video | Sequence[Video],
    ) -> Tensor:
        """Cosine similarities (C, V).

        Args:
            text: embeddings t_CE of any length, one t_E, or captions to embed
            video: embeddings v_VE of any length, one v_E, or videos to embed, see `embed_videos`

        Raises UserError for embeddings of different widths.
        """
        t_CE, v_VE = _embeddings(text), _embeddings(video)
        if t_CE is None:
            t_CE = self.encode_text(cast(Captions, text))
        if v_VE is None:
            v_VE = self.embed_videos(cast(Video, video))
        if t_CE.shape[-1] != v_VE.shape[-1]:
            raise UserError(
                f"similarity: text embeddings of {t_CE.shape[-1]} numbers and video embeddings of {v_VE.shape[-1]} are "
                "given; they must come from one model"
            )
        t_CE = F.normalize(t_CE, dim=-1)
        v_VE = F.normalize(v_VE, dim=-1)
        return t_CE @ v_VE.to(t_CE).T

    def text_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Tokens -> last hidden states (B, L, D)."""
        return self.text_model(**tokens).last_hidden_state

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> {"input_ids", "attention_mask"}, padded to the longest, cut at what the text model can take."""
        return tokenize(self.tokenizer, captions, self.text_use.max_length)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The text model's own, read when it is first needed. ConfigError if it does not fit the model."""
        if self._tokenizer is None:
            text_params = self.settings["text_params"]
            name = text_params.get("model", DEFAULT)
            trust_remote_code = text_params.get("trust_remote_code", False)
            tokenizer = load_tokenizer(name, trust_remote_code)
            check_tokenizer(tokenizer, self.text_model, self.text_use, name)
            self._tokenizer = tokenizer
        return self._tokenizer

    def text_files(self) -> dict[str, Tensor]:
        """The text model's configuration and tokenizer as files: what a checkpoint needs to be self-contained."""
        if not self._text_files:
            self._text_files = own_files.pack(
                self.tokenizer, self.text_model.config, self.text_use.stated
            )
        return self._text_files

    def grid(self, video_BTCHW: Tensor) -> tuple[int, int, int]:
        """(frames, rows, columns) of patches of a clip."""
        return self.video_model.grid(video_BTCHW)

    def set_gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute the encoders' blocks in the backward pass instead of keeping their activations."""
        self.video_model.set_gradient_checkpointing(on)
        set_checkpointing(self.text_model, on)

    @property
    def clip_reader(self) -> ClipReader | None:
        """What `embed_videos` reads videos with; None: it cannot."""
        return self._clip_reader

    def set_clip_reader(self, clip_reader: ClipReader) -> None:
        """Let `embed_videos` read videos with it; `load_model` does that."""
        self._clip_reader = clip_reader

    def update_preprocessing(self, video_params: Mapping[str, Any]) -> None:
        """Note how clips looked in training (center_crop, norm_mean, ...); frames and size stay the model's own."""
        own = {name: self.preprocessing[name] for name in ("num_frames", "input_res")}
        self.preprocessing = {**self.preprocessing, **to_plain(video_params), **own}

    @property
    def embedding_size(self) -> int:
        """E, the width of the joint space."""
        if self.settings["projection"]:
            return self.settings["projection_dim"]
        return self.video_model.embed_dim

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def _save_pretrained(self, save_directory: Path) -> None:
        pretrained.save(self, Path(save_directory))

    def generate_model_card(
        self, facts: Mapping[str, str] | None = None, **_: Any
    ) -> ModelCard:
        """The model card that `save_pretrained` writes; `facts` (heading -> text) from its `model_card_kwargs`."""
        return ModelCard(pretrained.card(self, facts or {}))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, **changes: Any
    ) -> "MILES":
        """A model in eval mode from a folder (`save_pretrained`, scripts/export.py) or a hub id.

        `changes` lie over the folder's arguments (`video_params={"num_frames": 8}`); revision, cache_dir, token,
        force_download and local_files_only are huggingface_hub's. Raises ConfigError, FileNotFoundError.
        """
        hub_arguments = {
            key: changes.pop(key) for key in HUB_ARGUMENTS if key in changes
        }
        folder = pretrained.locate(pretrained_model_name_or_path, **hub_arguments)
        return pretrained.load(cls, folder, changes)

    def _encode_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        hidden_BLD = self.text_features(tokens)
        pooled_BD = pool(
            hidden_BLD, tokens, self.text_use.pooling, eos_id(self.text_model)
        )
        return self.text_proj(pooled_BD)

    def _encode_captions(self, captions: Sequence[str]) -> Tensor:
        tokens = self.tokenize(captions)
        return self._encode_tokens(
            {name: ids.to(self.device) for name, ids in tokens.items()}
        )

    @torch.no_grad()
    def _in_batches(
        self,
        encode: Callable[[Sequence], Tensor],
        inputs: Sequence,
        batch_size: int | None,
        progress_label: str | None,
    ) -> Tensor:
        """Embeddings of `inputs`, (count, E), with a progress bar if it has a label; without dropout.

        On the CPU one at a time, as in the evaluation: so an embedding does not depend on the others of its batch.
        """
        if batch_size is None:
            batch_size = 1 if self.device.type == "cpu" else GPU_BATCH_SIZE
        if batch_size < 1:
            raise UserError(f"batch_size: {batch_size} is given, 1 or more is needed")
        if not len(inputs):
            return torch.empty(0, self.embedding_size, device=self.device)
        embeddings = []
        bar = tqdm(
            total=len(inputs), desc=progress_label, disable=progress_label is None
        )
        with bar, evaluating(self):
            for start in range(0, len(inputs), batch_size):
                batch = inputs[start : start + batch_size]
                embeddings.append(encode(batch))
                bar.update(len(batch))
        return torch.cat(embeddings)


def _one_temporal_fix(video_params: Mapping[str, Any], load_temporal_fix: str) -> str:
    """`load_temporal_fix`, which may stand in either place. Raises ConfigError for two that differ."""
    of_video = video_params.get("load_temporal_fix", load_temporal_fix)
    if load_temporal_fix not in ("zeros", of_video):
        raise ConfigError(
            f"arch.args.load_temporal_fix: {load_temporal_fix!r} is given, and video_params has {of_video!r}; leave "
            "one out"
        )
    return of_video


def _as_list(videos: Video | Sequence[Video]) -> list[Video]:
    """One video, or several, as a list."""
    if isinstance(videos, str | os.PathLike):
        return [videos]
    if isinstance(videos, np.ndarray | Tensor):
        return [videos] if videos.ndim in (3, 4) else list(videos)
    return list(videos)


def _embeddings(given: Any) -> Tensor | None:
    """Embeddings (n, E), of one vector (E,) or a list of vectors too; None if `given` is something else to embed."""
    is_list = isinstance(given, list | tuple) and len(given) > 0
    if is_list and all(_is_array(vector) and vector.ndim == 1 for vector in given):
        vectors = [torch.as_tensor(vector) for vector in given]
        widths = {len(vector) for vector in vectors}
        if len(widths) > 1:
            raise UserError(
                f"similarity: embeddings of {', '.join(map(str, sorted(widths)))} numbers are given in one list; they "
                "must come from one model"
            )
        return torch.stack(vectors)
    if not _is_array(given) or given.ndim > 2:
        return None
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "fiu":  # captions or paths
            return None
        given = given.copy()  # torch takes no reversed or read-only array
    tensor = torch.as_tensor(given)
    if tensor.ndim == 0:
        raise UserError(
            "similarity: a number is given; embeddings of shape (n, E) are needed"
        )
    return tensor if tensor.ndim == 2 else tensor[None]


def _is_array(given: Any) -> bool:
    return isinstance(given, np.ndarray | Tensor)


def _as_captions(text: Any) -> list[str]:
    """One caption, or several, as a list. Raises UserError for anything else."""
    captions = [text] if isinstance(text, str) else text
    try:
        captions = list(captions)
    except TypeError:
        captions = [captions]
    for caption in captions:
        if not isinstance(caption, str):
            raise UserError(
                f"encode_text: {type(caption).__name__} is given, captions are texts"
            )
    return captions


def _projections(
    kind: str, video_width: int, text_width: int, joint_width: int
) -> tuple[nn.Module, nn.Module]:
    if kind == "minimal":
        vid_proj = nn.Sequential(nn.Linear(video_width, joint_width))
        text_proj = nn.Sequential(nn.ReLU(), nn.Linear(text_width, joint_width))
        return vid_proj, text_proj
    if kind:
        raise ConfigError(
            f"arch.args.projection: {kind!r} is given, 'minimal' or '' is needed"
        )
    if video_width != text_width:
        raise ConfigError(
            f"arch.args.projection: '' needs towers of one width; video has {video_width}, text "
            f"{text_width}"
        )
    return nn.Identity(), nn.Identity()
