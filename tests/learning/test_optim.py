"""Why parameter groups are our own: timm's layer decay numbers our encoders otherwise than the official code does."""

import models
from pretrain.learning.optim import parameter_groups


def scales(groups: list[dict], model: models.VideoClassifier) -> dict[str, float]:
    """The factor of the learning rate of each parameter, by its name."""
    name = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}


def test_timm_does_not_give_the_official_layer_decay() -> None:
    """Official: patches 0.5 ** 3, blocks 0.5 ** 2 and 0.5, head 1 (VideoMAE V2 `optim_factory.py`)."""
    from timm.optim import param_groups_layer_decay

    encoder = models.VideoViT(width=16, depth=2, heads=2, mlp=32, patch=16, tubelet=2, frames=4, size=32)
    model = models.VideoClassifier(encoder, classes=4)
    ours = scales(parameter_groups(model, 0.05, 0.5), model)
    theirs = scales(param_groups_layer_decay(model, 0.05, layer_decay=0.5), model)
    official = {"encoder.patch_embed.proj.weight": 0.125, "encoder.blocks.0.mlp.fc1.weight": 0.25}
    official |= {"encoder.blocks.1.mlp.fc1.weight": 0.5, "head.weight": 1.0}
    assert {name: ours[name] for name in official} == official
    assert {name: theirs[name] for name in official} != official
