"""Pictures that carry a number in blocks of black and white that every codec keeps."""

import numpy as np

COLUMNS = 5  # of blocks, in four rows
BITS = 10


def draw_number(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """uint8 (H, W, 3): two rows of five bits, below them the same bits inverted."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)]).reshape(2, COLUMNS)
    blocks = np.concatenate([bits, 1 - bits]) * 160 + 48
    rows = np.arange(height)[:, None]
    columns = np.arange(width)
    # A pattern that moves, so that frames refer to each other.
    weave = (rows * 3 + columns * 2 + number * 5) % 40 - 20
    grey = blocks[rows * 4 // height, columns * COLUMNS // width] + weave
    return np.stack([grey, grey + 8, grey - 8], axis=2).astype(np.uint8)


def read_number(picture_HWC: np.ndarray) -> int:
    """The number drawn in a picture; AssertionError if two pictures are blended or it was not drawn here."""
    grey = np.asarray(picture_HWC, np.float32).mean(2)
    height, width = grey.shape

    blocks = np.empty((4, COLUMNS))
    for row in range(4):
        rows = slice(int((row + 0.3) * height / 4), int((row + 0.7) * height / 4))
        for column in range(COLUMNS):
            columns = slice(
                int((column + 0.3) * width / COLUMNS),
                int((column + 0.7) * width / COLUMNS),
            )
            blocks[row, column] = grey[rows, columns].mean()

    upper, lower = blocks[:2], blocks[2:]
    assert (np.abs(upper - lower) > 70).all(), "not one picture"
    return int(((upper > lower).reshape(-1) << np.arange(BITS)).sum())


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
