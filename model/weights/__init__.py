"""Other people's weights into ours, and ours out."""

from model.weights.load import load_weights
from model.weights.read import read_checkpoint

__all__ = ["load_weights", "read_checkpoint"]
