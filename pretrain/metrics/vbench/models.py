"""VBench's models, each built once, when the first scorer needs it, with weights of this machine or at random."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

import models
from models.classifier import VideoClassifier
from models.convert.read import read_tensors
from models.vit import SIZES, VideoViT
from pretrain.metrics.vbench.clip_towers import CLIP_B32, CLIP_L14, Towers
from pretrain.metrics.vbench.device import check_device, device_of
from pretrain.metrics.vbench.dino import DINO
from pretrain.metrics.vbench.musiq import MUSIQ
from pretrain.metrics.vbench.raft import RAFT
from pretrain.metrics.vbench.weights import check, locate

_UMT_SIZES = tuple(SIZES["large"][name] for name in ("width", "depth", "heads", "mlp", "patch"))
Module = TypeVar("Module", bound=nn.Module)


class Models:
    """Args: folder, given: see `weights.locate`. random: random weights of the right shapes, for trials."""

    def __init__(
        self,
        folder: str | Path | None = None,
        given: Mapping[str, str | Path] | None = None,
        device: str | torch.device = "cpu",
        random: bool = False,
    ) -> None:
        self.folder, self.given, self.device, self.random = folder, dict(given or {}), device_of(device), random

    def _ready(self, model: Module, name: str, load: Callable[[Path], object]) -> Module:
        if self.device.type != "meta":  # which counts operations only
            check_device(self.device)
        if not self.random:
            path = locate(name, self.folder, self.given)
            load(path if name in self.given else check(name, path))  # the user's own files may be of other layouts
        return model.to(self.device).eval().requires_grad_(False)

    def _read(self, load: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
        return lambda path: load(read_tensors(path))

    @cached_property
    def clip_b32(self) -> Towers:
        towers = Towers(*CLIP_B32)
        return self._ready(towers, "clip_b32", towers.load)

    @cached_property
    def clip_l14(self) -> Towers:
        towers = Towers(*CLIP_L14)
        return self._ready(towers, "clip_l14", towers.load)

    @cached_property
    def viclip(self) -> Towers:
        """ViCLIP-L/14 of InternVid-10M-FLT: 8 frames, 32 tokens."""
        towers = Towers(*CLIP_L14, frames=8, context=32)
        return self._ready(towers, "viclip", towers.load)

    @cached_property
    def dino(self) -> DINO:
        dino = DINO()
        return self._ready(dino, "dino", self._read(dino.load))

    @cached_property
    def raft(self) -> RAFT:
        raft = RAFT()
        return self._ready(raft, "raft", self._read(raft.load))

    @cached_property
    def musiq(self) -> MUSIQ:
        musiq = MUSIQ()
        return self._ready(musiq, "musiq", self._read(musiq.load))

    @cached_property
    def aesthetic(self) -> nn.Linear:
        """LAION's head on CLIP ViT-L/14."""
        head = nn.Linear(768, 1)
        return self._ready(head, "aesthetic", self._read(head.load_state_dict))

    @cached_property
    def umt(self) -> VideoClassifier:
        """UMT's ViT-L/16 for Kinetics-400: 16 frames, one a token, with the positions of 8 frames resized."""
        encoder = VideoViT(*_UMT_SIZES, tubelet=1, frames=16, norm=False, made_for=(8, 14, 14))
        classifier = VideoClassifier(encoder, 400)

        def load(path: Path) -> None:
            report = models.load_weights(classifier, path)
            if report.missing:
                raise ValueError(f"{path}: no {report.missing[0]} for UMT's classifier: {report}")

        return self._ready(classifier, "umt", load)
