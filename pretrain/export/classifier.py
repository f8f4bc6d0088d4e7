"""Exports a fine-tuned classifier to transformers' VideoMAEForVideoClassification, with the names of its classes."""

from pathlib import Path

import torch
from torch import nn

from models.classifier import Classifier, VideoClassifier
from models.convert import videomae as names
from models.positions import FixedPositions
from models.vit import VideoViT
from pretrain.export.shared import encoder_sizes, load_videomae, random_video, require_close

EXAMPLE = """from transformers import VideoMAEForVideoClassification
model = VideoMAEForVideoClassification.from_pretrained("PATH")
model(pixel_values).logits  # [B, classes], which model.config.id2label names, of frames [B, T, 3, H, W]"""


def to_transformers(model: Classifier, folder: Path, classes: list[str] | None) -> str:
    """Write a folder for `VideoMAEForVideoClassification.from_pretrained`, load it and compare the scores.

    Args:
        classes: their names; None: their numbers.
    """
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    model, e = _check(model)
    labels = dict(enumerate(classes)) if classes else {k: f"LABEL_{k}" for k in range(model.classes)}
    config = VideoMAEConfig(
        **encoder_sizes(e),
        layer_norm_eps=1e-6,
        use_mean_pooling=model.mean,
        id2label=labels,
        label2id={name: k for k, name in labels.items()},
    )
    theirs = VideoMAEForVideoClassification(config)
    load_videomae(theirs, names.TRANSFORMERS, model.state_dict())
    theirs.save_pretrained(folder)  # writes the names that transformers 4 and 5 both read
    difference = compare(model, e, VideoMAEForVideoClassification.from_pretrained(folder))
    return f"VideoMAEForVideoClassification of {model.classes} classes, scores equal to {difference:.1e}"


def _check(model: Classifier) -> tuple[VideoClassifier, VideoViT]:
    """The model and its encoder; ValueError for options that transformers' class does not have."""
    e = model.encoder
    if not isinstance(model, VideoClassifier) or not isinstance(e, VideoViT):
        raise ValueError(f"transformers has no {type(model).__name__} of {type(e).__name__}: export to safetensors")
    fixed = isinstance(e.positions, FixedPositions) and e.positions.made_for == e.grid
    if not fixed or e.blocks[0].attn.scale is not None or not isinstance(e.blocks[0].ls1, nn.Identity):
        raise ValueError(
            "transformers' VideoMAE has no learnt or resized positions, no cosine attention and no layer scale: export "
            "to safetensors"
        )
    if model.mean == isinstance(e.norm, nn.LayerNorm):
        raise ValueError(
            "transformers' VideoMAE has one norm after its blocks: of the mean (encoder norm: false), or of each token"
        )
    return model, e


@torch.no_grad()
def compare(model: VideoClassifier, e: VideoViT, theirs: nn.Module) -> float:
    """Largest difference of the scores on random video; ValueError if it is larger than rounding errors."""
    video = random_video(e)
    difference = (model.eval()(video) - theirs.eval()(video.transpose(1, 2)).logits).abs().max().item()
    return require_close(difference, "classifier")
