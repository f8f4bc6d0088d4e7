"""The methods, a class each; recipes name them by these short names."""

from pretrain.objectives.objective import Objective
from pretrain.objectives.umt import UMT
from pretrain.objectives.viclip import ViCLIP
from pretrain.objectives.videomae import VideoMAE

__all__ = ["UMT", "Objective", "ViCLIP", "VideoMAE"]
