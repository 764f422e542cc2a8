"""fp32, tf32, bf16, fp16: what the encoders compute in. Parameters stay float32; losses compute in float32 or wider
whatever is chosen (`model.loss.full_precision`)."""

from contextlib import AbstractContextManager, nullcontext

import torch

from parse_config import ConfigError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = ("fp32", "tf32", *HALF)


class Precision:
    """One of `NAMES` on one device.

    `autocast()` is the context of a forward pass (nothing for fp32 and tf32). Enter it anew for each pass, with or
    without gradient, and leave it before the backward pass: it keeps its casts of the weights from pass to pass.
    `scaler` is torch's GradScaler, which scales for fp16 alone and else hands everything through.
    """

    def __init__(self, name: str = "fp32", device: torch.device | str = "cpu"):
        if name not in NAMES:
            raise ConfigError(f"trainer.precision: {name!r} is given; known: {', '.join(NAMES)}")
        self.name, self.device = name, torch.device(device)
        cuda = self.device.type == "cuda"
        if name == "bf16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError("trainer.precision: this GPU has no bf16; take fp16")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=name == "fp16")
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = name == "tf32"

    def autocast(self) -> AbstractContextManager:
        """The context for one forward pass."""
        return (
            torch.autocast(self.device.type, dtype=HALF[self.name])
            if self.name in HALF
            else nullcontext()
        )
