"""Number formats of the encoders: fp32, tf32, bf16, fp16.

Parameters stay float32; losses compute in float32 or wider with each of them (`model.loss.full_precision`).
"""

from contextlib import AbstractContextManager, nullcontext

import torch

from parse_config import ConfigError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = ("fp32", "tf32", *HALF)


class Precision:
    """A number format on a device.

    Args:
        name: one of `NAMES`
        device: the device that the encoders run on

    Attributes:
        scaler: torch's GradScaler, which scales for fp16 and is a no-op for the others
    """

    def __init__(self, name: str = "fp32", device: torch.device | str = "cpu") -> None:
        if name not in NAMES:
            raise ConfigError(
                f"trainer.precision: {name!r} is given; known: {', '.join(NAMES)}"
            )
        self.name = name
        self.device = torch.device(device)
        cuda = self.device.type == "cuda"
        if (
            name == "bf16"
            and cuda
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            raise ConfigError("trainer.precision: this GPU has no bf16; take fp16")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=name == "fp16")
        if cuda:
            torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = name == "tf32"

    def autocast(self) -> AbstractContextManager:
        """The context of one forward pass; it does nothing for fp32 and tf32.

        Enter a new one for each pass, with or without gradient, and leave it before the backward pass: it caches its
        casts of the weights.
        """
        if self.name in HALF:
            return torch.autocast(self.device.type, dtype=HALF[self.name])
        return nullcontext()
