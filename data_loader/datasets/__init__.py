"""The data sets, one per file: each says which videos there are; `data_loader.base.TextVideoDataset` does the rest."""

from parse_config import Registry

DATASETS = Registry("data set", __name__)
