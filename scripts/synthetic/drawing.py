"""Pictures that carry a number in blocks of black and white that every codec keeps."""

import numpy as np

COLUMNS, BITS = 5, 10


def draw(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """uint8 (H, W, 3): two rows of five bits, below them the same the other way round."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)]).reshape(2, COLUMNS)
    blocks = np.concatenate([bits, 1 - bits]) * 160 + 48
    rows, columns = np.arange(height)[:, None], np.arange(width)
    weave = (
        rows * 3 + columns * 2 + number * 5
    ) % 40 - 20  # moves, so that frames refer to each other
    grey = blocks[rows * 4 // height, columns * COLUMNS // width] + weave
    return np.stack([grey, grey + 8, grey - 8], axis=2).astype(np.uint8)


def number(picture: np.ndarray) -> int:
    """The number drawn in a (H, W, 3) picture; AssertionError if two pictures are blended or it is none of ours."""
    grey = np.asarray(picture, np.float32).mean(2)
    height, width = grey.shape
    seen = np.array(
        [
            [
                grey[
                    int((row + 0.3) * height / 4) : int((row + 0.7) * height / 4),
                    int((col + 0.3) * width / COLUMNS) : int((col + 0.7) * width / COLUMNS),
                ].mean()
                for col in range(COLUMNS)
            ]
            for row in range(4)
        ]
    )
    assert (np.abs(seen[:2] - seen[2:]) > 70).all(), "not one picture"
    return int(((seen[:2] > seen[2:]).reshape(-1) << np.arange(BITS)).sum())
