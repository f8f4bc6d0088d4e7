"""The methods, one class and one file each; recipes name them by these short names."""

from pretrain.objectives.align import Align
from pretrain.objectives.classify import Classify
from pretrain.objectives.denoise import Denoise
from pretrain.objectives.internvideo import InternVideo
from pretrain.objectives.objective import Objective
from pretrain.objectives.umt import UMT
from pretrain.objectives.umt2 import UMT2
from pretrain.objectives.viclip import ViCLIP
from pretrain.objectives.videochat import Converse
from pretrain.objectives.videomae import VideoMAE
from pretrain.objectives.videoqa import VideoQA
from pretrain.objectives.vilp import ViLP

__all__ = [
    "UMT",
    "UMT2",
    "Align",
    "Classify",
    "Converse",
    "Denoise",
    "InternVideo",
    "Objective",
    "ViCLIP",
    "ViLP",
    "VideoMAE",
    "VideoQA",
]
