"""A fine-tuned classifier out: to transformers' VideoMAE with the names of its classes, and to official layouts."""

from pathlib import Path

import torch
from torch import Tensor, nn

from models.classifier import Classifier, VideoClassifier
from models.convert import internvideo
from models.convert import videomae as names
from models.convert.rules import to_theirs
from models.positions import FixedPositions
from models.uniformerv2 import UniFormerV2Classifier
from models.vit import VideoViT
from pretrain.export.shared import encoder_sizes, fill_videomae, noise_for, only_rounding

EXAMPLE = (
    "from transformers import VideoMAEForVideoClassification, VideoMAEImageProcessor\n"
    'model = VideoMAEForVideoClassification.from_pretrained("PATH")\n'
    "# model(pixel_values=video [B, T, 3, H, W]).logits; model.config.id2label names the classes"
)


def official_names(model: Classifier, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict as the official fine-tuning saves it (VideoMAE V2's and UMT's, or UniFormerV2's), and our names that
    have no place there."""
    rules = {VideoClassifier: names.OFFICIAL_FINETUNE, UniFormerV2Classifier: internvideo.UNIFORMERV2}
    if type(model) not in rules:
        raise ValueError(f"{type(model).__name__} has no official layout: export to safetensors")
    return to_theirs(rules[type(model)], state)


def to_transformers(model: Classifier, folder: Path, classes: list[str] | None) -> str:
    """A folder for `VideoMAEForVideoClassification.from_pretrained`, checked by loading it and comparing scores.

    Args:
        classes: their names; numbers by default.
    """
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    e = _encoder_that_fits(model)
    labels = dict(enumerate(classes)) if classes else {k: f"LABEL_{k}" for k in range(model.classes)}
    config = VideoMAEConfig(
        **encoder_sizes(e),
        layer_norm_eps=1e-6,
        qkv_bias=True,
        use_mean_pooling=model.mean,
        id2label=labels,
        label2id={name: k for k, name in labels.items()},
    )
    theirs = VideoMAEForVideoClassification(config)
    fill_videomae(theirs, names.TRANSFORMERS, model.state_dict())
    theirs.save_pretrained(folder)  # writes the names that transformers 4 and 5 both read
    difference = compare(model, e, VideoMAEForVideoClassification.from_pretrained(folder))
    return f"VideoMAEForVideoClassification of {model.classes} classes, scores equal to {difference:.1e}"


def _encoder_that_fits(model: Classifier) -> VideoViT:
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
    return e


@torch.no_grad()
def compare(model: Classifier, e: VideoViT, theirs: nn.Module) -> float:
    """Largest difference of scores on random video; ValueError where it is not rounding."""
    video = noise_for(e)
    difference = (model.eval()(video) - theirs.eval()(video.transpose(1, 2)).logits).abs().max().item()
    return only_rounding(difference, "classifier")
