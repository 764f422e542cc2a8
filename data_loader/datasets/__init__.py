"""The data sets, one a file: each says which items there are; `data_loader.base.TextVideoDataset` does the rest."""

from parse_config import Registry

DATASETS = Registry("data set", __name__)
