"""Encoders, losses, masks, teachers, metrics and weights; architectures are registered in `ARCHS`."""

from parse_config import Registry

ARCHS = Registry("arch", __name__)
