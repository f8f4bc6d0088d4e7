"""Small models of UMT's second stage, a batch for them, and their official weights."""

import pytest
import torch

import models
from models.convert import umt2 as names
from pretrain.learning.masking import Attention
from pretrain.learning.teachers import Frozen
from pretrain.objectives import UMT2
from tests.helpers.paths import ROOT

VOCABULARY = str(ROOT / "recipes/data/shapes_vocab.txt")
SIZES = {"patch": 8, "tubelet": 1, "frames": 4, "size": 32}
CLIP = (48, 3, 4, 96, 8, 32, 24)
TOWER = {"width": 32, "depth": 3, "heads": 4, "mlp": 64, "fusion": 1, "source": 48}
TOWER |= {"vocabulary": 39, "context": 16, "dropout": 0.0}
TEXTS = ["a red circle moves left", "a green square", "a blue cross moves right", "yellow"]


def words(context: int = 12) -> models.Words:
    pytest.importorskip("transformers")
    return models.Words(models.BertTokenizer(VOCABULARY, context))


def tower(**options) -> models.Bert:
    return models.Bert(**{**TOWER, **options})


def student(**options) -> models.VideoViT:
    return models.VideoViT(48, 3, 4, 96, **{**SIZES, **options})


def whole(**options) -> UMT2:
    """A small model with all four losses."""
    torch.manual_seed(0)
    parts = {
        "decoder": models.FeatureDecoder(48, 24, 2, **SIZES, eps=1e-5),
        "teacher": Frozen(models.CLIPVision(*CLIP), random=3),
        "mask": Attention(0.75),
    }
    return UMT2(student(), tower(), words(), 24, **{**parts, **options})


def tuned(**options) -> UMT2:
    """A small model with contrast and matching, without masks."""
    torch.manual_seed(0)
    none = {"words_weight": 0.0, "alignment_weight": 0.0}
    return UMT2(**{"encoder": student(), "text": tower(head=False), "words": words(), "embed": 24, **none, **options})


def batch(rows: int = 4, frames: int = 4) -> dict:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (rows, 3, frames, 32, 32), dtype=torch.uint8, generator=generator)
    return {"video": video, "text": TEXTS[:rows], "name": list("abcd")[:rows]}


def random_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(t.shape, generator=generator) * 0.1 for name, t in module.state_dict().items()}


def official(model: UMT2) -> dict[str, torch.Tensor]:
    """The contents of the official file: with the teacher, the tensors stored twice, and the position ids."""
    teacher = {f"teacher.{name}": t for name, t in random_state(model.teacher.model).items()}
    theirs, unknown = names.to_official({**random_state(model), **teacher})
    assert not unknown
    return {**theirs, "text_encoder.bert.embeddings.position_ids": torch.arange(16)[None]}
