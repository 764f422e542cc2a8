"""Everything that a run imports, imported: for processes that are forked from one that has it (killing.py)."""

import importlib

import torch
import torch.distributed.fsdp
import torch.distributed.tensor
import torch.utils.tensorboard
from transformers import AutoConfig, AutoModel, AutoTokenizer, DistilBertModel

import train
from data_loader.datasets import DATASETS
from model.mask import MASKS
from model.teacher import TEACHERS
from model.video import VIDEO_ENCODERS

torch.set_num_threads(1)
for _registry in (
    train.ARCHS,
    train.LOADERS,
    train.LOSSES,
    train.OBJECTIVES,
    DATASETS,
    MASKS,
    TEACHERS,
    VIDEO_ENCODERS,
):
    _registry.names()
for _lazy in (AutoConfig, AutoModel, AutoTokenizer, DistilBertModel):
    importlib.import_module(_lazy.__module__)
for _name in (
    "tokenizers",
    "transformers.models.distilbert.tokenization_distilbert_fast",
    "torch._dynamo",
    "transformers.models.bert.tokenization_bert_fast",
    "transformers.models.bert",
    "av",
    "PIL.Image",
    "transformers.models.distilbert.configuration_distilbert",
):
    if importlib.util.find_spec(_name):
        importlib.import_module(_name)
