"""What is asked of faiss: indices of three kinds over unit vectors, by inner product. N rows, E width."""

import math
from typing import Any

import numpy as np

from parse_config import UserError

KINDS = ("flat", "ivf", "hnsw")
EFFORT = {
    "ivf": "nprobe",
    "hnsw": "efSearch",
}  # what an approximate index looks at more of for a better recall
LINKS, BUILD = 32, 80  # of HNSW: neighbours a row, candidates while building
SAMPLE = 64  # rows a cell that IVF is trained on; faiss asks for 39 at least


def faiss() -> Any:
    """The module, or UserError with the remedy."""
    try:
        import faiss
    except ImportError:
        raise UserError(
            "search needs faiss, which is not installed: pip install faiss-cpu"
        ) from None
    return faiss


def normalised(x_NE: np.ndarray) -> np.ndarray:
    """float32, each row of length 1 (zeros stay zeros)."""
    x_NE = np.asarray(x_NE, np.float32)
    return x_NE / np.maximum(np.linalg.norm(x_NE, axis=1, keepdims=True), 1e-12)


def make(kind: str, rows_NE: np.ndarray) -> Any:
    """An index of that kind with the rows in it, in main memory; trained on the GPUs that faiss has."""
    module, (count, width) = faiss(), rows_NE.shape
    if kind == "hnsw":  # has no GPU form
        index = module.IndexHNSWFlat(width, LINKS, module.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD
    elif kind == "flat":
        index = module.IndexFlatIP(width)
    else:
        cells = max(1, min(round(4 * math.sqrt(count)), count // 39))
        index = module.IndexIVFFlat(
            module.IndexFlatIP(width), width, cells, module.METRIC_INNER_PRODUCT
        )
        worker, step = on_gpus(index), max(1, count // (SAMPLE * cells))
        worker.train(np.ascontiguousarray(rows_NE[::step]))
        index = module.index_gpu_to_cpu(worker) if worker is not index else index
    index.add(rows_NE)
    return index


def on_gpus(index: Any) -> Any:
    """A copy of a flat or IVF index on all GPUs that faiss has; `index` itself if it has none."""
    module = faiss()
    return module.index_cpu_to_all_gpus(index) if module.get_num_gpus() > 0 else index


def set_effort(index: Any, kind: str, effort: int):
    """How much an approximate index looks at."""
    if kind == "ivf":
        index.nprobe = effort
    elif kind == "hnsw":
        index.hnsw.efSearch = effort
