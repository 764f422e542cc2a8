"""faiss indices of three kinds over unit vectors, by inner product. N rows, E width."""

import math
from typing import Any

import numpy as np

from parse_config import UserError

KINDS = ("flat", "ivf", "hnsw")
EFFORT_OPTION = {"ivf": "nprobe", "hnsw": "efSearch"}  # raised for a better recall
HNSW_LINKS = 32  # neighbours per row
HNSW_BUILD_CANDIDATES = 80
IVF_ROWS_PER_CELL = 64  # that it is trained on; faiss warns below 39
IVF_MIN_ROWS_PER_CELL = 39
BELOW_ANY_COSINE = -2.0


def import_faiss() -> Any:
    """The faiss module. Raises UserError with the remedy where it is not installed."""
    try:
        import faiss
    except ImportError:
        raise UserError(
            "search needs faiss, which is not installed: pip install faiss-cpu"
        ) from None
    return faiss


def normalize(x_NE: np.ndarray) -> np.ndarray:
    """Scales each row to length 1 (zeros stay zeros) -> float32 (N, E)."""
    x_NE = np.asarray(x_NE, np.float32)
    return x_NE / np.maximum(np.linalg.norm(x_NE, axis=1, keepdims=True), 1e-12)


def build_index(kind: str, rows_NE: np.ndarray) -> Any:
    """An index of `kind` that holds the rows, in main memory; trained on the GPUs that faiss has."""
    width = rows_NE.shape[1]
    if kind == "flat":
        index = import_faiss().IndexFlatIP(width)
    elif kind == "hnsw":
        index = _empty_hnsw(width)
    else:
        index = _trained_ivf(rows_NE)
    index.add(rows_NE)
    return index


def _empty_hnsw(width: int) -> Any:
    faiss = import_faiss()
    index = faiss.IndexHNSWFlat(width, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_BUILD_CANDIDATES
    return index


def _trained_ivf(rows_NE: np.ndarray) -> Any:
    """An empty IVF index with about 4 sqrt(N) cells, trained on evenly spaced rows."""
    faiss = import_faiss()
    num_rows, width = rows_NE.shape
    num_cells = max(
        1, min(round(4 * math.sqrt(num_rows)), num_rows // IVF_MIN_ROWS_PER_CELL)
    )
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(width), width, num_cells, faiss.METRIC_INNER_PRODUCT
    )
    stride = max(1, num_rows // (IVF_ROWS_PER_CELL * num_cells))
    gpu_index = to_gpus(index)
    gpu_index.train(np.ascontiguousarray(rows_NE[::stride]))
    if gpu_index is index:
        return index
    return faiss.index_gpu_to_cpu(gpu_index)


def to_gpus(index: Any) -> Any:
    """A copy of a flat or IVF index on all GPUs that faiss has; `index` itself if it has none."""
    faiss = import_faiss()
    if faiss.get_num_gpus() > 0:
        return faiss.index_cpu_to_all_gpus(index)
    return index


def all_scores(index: Any, kind: str, query_E: np.ndarray) -> np.ndarray:
    """float32 (N,): the score of every row of an index in main memory; of an IVF index -inf for those it leaves out.

    query_E: of length 1. Much quicker than a search for as many rows, which keeps them in order.
    """
    if kind != "ivf":
        return stored_vectors(index, kind) @ query_E
    _, scores_M, numbers_M = index.range_search(query_E[None], BELOW_ANY_COSINE)
    scores_N = np.full(index.ntotal, -np.inf, np.float32)
    scores_N[numbers_M] = scores_M
    return scores_N


def stored_vectors(index: Any, kind: str) -> np.ndarray:
    """float32 (N, E): the rows of a flat or HNSW index; a view, valid as long as the index."""
    faiss = import_faiss()
    if kind == "hnsw":
        index = index.storage
    flat = faiss.downcast_index(index)
    values = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return values.reshape(flat.ntotal, flat.d)


def set_effort(index: Any, kind: str, effort: int) -> None:
    """Sets how many cells (ivf) or candidates (hnsw) an approximate index compares per query."""
    if kind == "ivf":
        index.nprobe = effort
    elif kind == "hnsw":
        index.hnsw.efSearch = effort


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/index.py --help")
