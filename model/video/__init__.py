"""Video encoders: `forward(video_BTCHW, mask_BTN=None, mask_token_D=None) -> (cls_BD, patch_BTND)`, one a file.

An encoder has `embed_dim` and `num_frames`, may have `sizes` (names for `arch_config` -> constructor arguments),
`init_from_image(state, ...)` and `set_gradient_checkpointing(on)`.
"""

from parse_config import Registry

VIDEO_ENCODERS = Registry("video encoder", __name__)
