"""Image backbones of timm and transformers as encoders of videos, frame by frame: DINOv2, SigLIP, open_clip's CLIP.

Notable: the backbone is the library's own and computes each frame alone; tokens of all frames stand one after another,
without class and register tokens; tapped layers share the backbone's final norm.
"""

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from models.encoder import Encoder
from models.layers import IMAGENET_MEAN, IMAGENET_STD, token_grid

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of each channel
_NORMS = ("norm", "layernorm", "post_layernorm")  # the libraries' names of the final norm
_NOT_FOR_TOKENS = ("attn_pool", "fc_norm", "pooler", "head", "head_drop")  # they make one vector of an image
# What decides the output of a transformers model and is in no shape of its weights.
_SETTINGS = ("num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps")


class FrameTokens(NamedTuple):
    """The output of a backbone for a video.

    prefix: the normed class and register tokens of the last layer, `[B, T, p, D]`; `p` is 0 for SigLIP.
    patches: of the last layer and of each tapped one, normed, `[B, T * h * w, D]`.
    attention: of the last layer's class token to each patch, averaged over heads, `[B, T, h * w]`; None: not asked.
    """

    prefix: Tensor
    patches: dict[int, Tensor]
    attention: Tensor | None


class FrameEncoder(Encoder):
    """A vision transformer of another library, applied to each frame of a video.

    Args:
        backbone: takes frames `[F, 3, H, W]`.
        layers: the name of its list of layers.
        width, patch: channels and pixels of a token.
        frames, size: of a clip; weights of another size keep their positions, which the library resizes.
        statistics: by which the pixels were normalised that the backbone was trained on.

    Raises:
        ValueError: the backbone has no final norm of a known name, or `size` is no multiple of `patch`.
    """

    tubelet = 1

    def __init__(
        self, backbone: nn.Module, layers: str, width: int, patch: int, frames: int, size: int, statistics: Statistics
    ) -> None:
        super().__init__()
        self.backbone, self.layers = backbone, layers
        self.width, self.patch, self.frames, self.size = width, patch, frames, size
        self.grid = token_grid(frames, size, 1, patch)
        self.statistics = statistics
        self._scores: list[Tensor] = []  # attention of the call that runs, if it is hooked
        self._hooked = False
        found = [name for name in _NORMS if isinstance(getattr(backbone, name, None), nn.Module)]
        if not found:
            raise ValueError(f"{type(backbone).__name__} has no final norm: one of {', '.join(_NORMS)} was expected")
        self._norm = found[0]
        self.unused = frozenset(
            name
            for name, _ in backbone.named_parameters()
            if name.split(".")[0] in _NOT_FOR_TOKENS or name.endswith("mask_token")
        )  # no token depends on these: they may be missing in weights, and DDP would wait for their gradients
        for name in self.unused:
            backbone.get_parameter(name).requires_grad_(False)

    # Not registered a second time: state dicts have each tensor once.

    @property
    def blocks(self) -> Any:  # pyrefly: ignore[bad-override]
        return self.backbone.get_submodule(self.layers)

    @property
    def norm(self) -> Any:  # pyrefly: ignore[bad-override]
        return getattr(self.backbone, self._norm)

    def reset_parameters(self) -> None:
        """Initialise the tables and tokens that no layer with an own `reset_parameters` holds."""
        for module in self.backbone.modules():
            if not callable(getattr(module, "reset_parameters", None)):
                for parameter in module.parameters(recurse=False):
                    nn.init.trunc_normal_(parameter, std=0.02)

    def run(self, frames: Tensor) -> Any:
        """The backbone on `frames` `[F, 3, H, W]`; what it returns is not used."""
        raise NotImplementedError

    def hook_attention(self, keep: Callable[[Tensor], None]) -> None:
        """From now on gives `keep` the attention `[F, heads, N, N]` of the last layer whenever it is computed."""
        raise NotImplementedError

    def forward(
        self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """See `Encoder.forward`. ValueError: `keep` is given, since the libraries' models take whole images."""
        if keep is not None:
            raise ValueError(
                f"{type(self).__name__} encodes whole frames and cannot drop tokens: take it as a teacher, for a probe "
                "or for fine-tuning, and VideoViT for an encoder with masked inputs"
            )
        patches = self.encode(video, taps).patches
        tokens = patches[len(self.blocks) - 1]
        return (tokens, [patches[i] for i in taps]) if taps else tokens

    def summary(self, video: Tensor) -> Tensor:
        """One vector per video, `[B, D]`: the mean over frames of the class token, without one of all tokens."""
        made = self.encode(video)
        if made.prefix.shape[2]:
            return made.prefix[:, :, 0].mean(dim=1)
        return made.patches[len(self.blocks) - 1].mean(dim=1)

    def encode(self, video: Tensor, taps: Sequence[int] = (), attention: bool = False) -> FrameTokens:
        """Class tokens and patches of `video` `[B, 3, T, H, W]`, normalised; with `attention`, the class token's."""
        self.check(video, 1)
        b, t = video.shape[:3:2]
        layers, made = self.blocks, dict[int, Tensor]()
        wanted = {*taps, len(layers) - 1}
        handles = [layers[i].register_forward_hook(_keeper(made, i)) for i in wanted]
        if attention and not self._hooked:
            self.hook_attention(self._scores.append)  # it stays: each new hook would be a new graph of a compiled layer
            self._hooked = True
        try:
            self.run(video.transpose(1, 2).flatten(0, 1))
            scores = self._scores[-1:]
        finally:
            self._scores.clear()
            for handle in handles:
                handle.remove()
        n = self.grid[1] * self.grid[2]
        outputs = {i: self.norm(made[i]).unflatten(0, (b, t)) for i in wanted}  # [B, T, p + n, D]
        p = outputs[len(layers) - 1].shape[2] - n
        rows = scores[0].float()[:, :, 0, p:].mean(dim=1).unflatten(0, (b, t)) if attention and p else None
        patches = {i: x[:, :, p:].flatten(1, 2) for i, x in outputs.items()}
        return FrameTokens(outputs[len(layers) - 1][:, :, :p], patches, rows)


def _keeper(made: dict[int, Tensor], index: int) -> Callable[[nn.Module, Any, Any], None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        made[index] = output[0] if isinstance(output, tuple) else output

    return keep


class TimmEncoder(FrameEncoder):
    """Any vision transformer of timm with a list `blocks`: its ViT (also DINOv2, SigLIP, CLIP of open_clip), EVA, BEiT.

    Args:
        name: timm's, such as vit_base_patch14_dinov2.
        frames, size: of a clip.
        drop_path: stochastic depth of the last block.
        options: further arguments of `timm.create_model`.
    """

    def __init__(
        self,
        name: str,
        frames: int = 8,
        size: int = 224,
        drop_path: float = 0.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        settings: dict[str, Any] = {"num_classes": 0, "img_size": size, "drop_path_rate": drop_path, **(options or {})}
        try:
            model: Any = timm.create_model(name, pretrained=False, **settings)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"timm makes no vision transformer {name!r} of {size} pixels ({error}): take one of "
                "timm.list_models('vit_*'), and options that it has"
            ) from error
        if not isinstance(getattr(model, "blocks", None), nn.ModuleList | nn.Sequential):
            raise ValueError(f"{name} of timm has no list `blocks`: take a vision transformer, such as vit_base_*")
        patch, config = model.patch_embed.patch_size[0], model.pretrained_cfg
        super().__init__(
            model, "blocks", model.embed_dim, patch, frames, size, (tuple(config["mean"]), tuple(config["std"]))
        )

    def run(self, frames: Tensor) -> Any:
        return self.backbone.forward_features(frames)  # pyrefly: ignore[not-callable]

    def hook_attention(self, keep: Callable[[Tensor], None]) -> None:
        attention: Any = self.blocks[-1].attn
        attention.fused_attn = False  # a fused kernel keeps no attention; the dropout passes it on
        attention.attn_drop.register_forward_hook(lambda _module, _inputs, output: keep(output))


class TransformersEncoder(FrameEncoder):
    """Any vision transformer of transformers with tokens of one size: Dinov2Model, SiglipVisionModel, CLIPVisionModel.

    Args:
        kind: transformers' `model_type`, such as dinov2 or siglip_vision_model.
        frames, size: of a clip.
        options: what differs from the defaults of that kind's configuration, by the names in its `config.json`.
        mean, std: by which the model's pixels were normalised (its `preprocessor_config.json`).
    """

    def __init__(
        self,
        kind: str,
        frames: int = 8,
        size: int = 224,
        options: Mapping[str, Any] | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        from transformers import AutoConfig, AutoModel

        config: Any = AutoConfig.for_model(kind, **(options or {}))
        if not (hasattr(config, "hidden_size") and isinstance(getattr(config, "patch_size", None), int)):
            raise ValueError(
                f"{kind} of transformers is no vision transformer: take one, such as dinov2, vit, clip_vision_model or "
                "siglip_vision_model"
            )
        model = AutoModel.from_config(config, dtype=torch.float32)
        lists = [n for n, part in model.named_modules() if isinstance(part, nn.ModuleList)]
        layers = next(n for n in lists if len(model.get_submodule(n)) == config.num_hidden_layers)  # pyrefly: ignore[bad-argument-type]
        super().__init__(model, layers, config.hidden_size, config.patch_size, frames, size, (mean, std))
        # Position tables of another size: some models ask for leave to resize them, others always do.
        given = getattr(config, "image_size", size)
        self._options = {"interpolate_pos_encoding": True} if self._asks() and given != size else {}

    def _asks(self) -> bool:
        return "interpolate_pos_encoding" in inspect.signature(self.backbone.forward).parameters

    def run(self, frames: Tensor) -> Any:
        return self.backbone(pixel_values=frames, **self._options)

    def hook_attention(self, keep: Callable[[Tensor], None]) -> None:
        attention: Any = next(m for m in self.blocks[-1].modules() if hasattr(m, "config") and hasattr(m, "is_causal"))
        if attention.config._attn_implementation != "eager":
            attention.config = copy.deepcopy(attention.config)  # the other layers keep the fused kernel
            attention.config._attn_implementation = "eager"
        attention.register_forward_hook(lambda _module, _inputs, output: keep(output[1]))

    def check_config(self, folder: Path) -> None:
        """ValueError if a folder's `config.json` differs in what no shape of a weight shows."""
        found = json.loads((folder / "config.json").read_text())
        config: Any = self.backbone.config
        found = found.get("vision_config", found)
        defaults = type(config)()  # a config.json may leave out what is the default
        for name in _SETTINGS:
            theirs, ours = found.get(name, getattr(defaults, name, None)), getattr(config, name, None)
            if theirs != ours:
                raise ValueError(
                    f"{folder} is a model with {name} {theirs}, and the recipe's has {ours}: set the encoder's "
                    f"options.{name} to {theirs}"
                )
