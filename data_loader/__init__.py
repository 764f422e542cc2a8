"""Files on disk -> batches. Loaders are registered in `LOADERS`, data sets in `data_loader.datasets.DATASETS`."""

from parse_config import Registry

LOADERS = Registry("loader", __name__)
