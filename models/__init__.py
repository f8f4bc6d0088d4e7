"""What you ship: encoders, decoders, heads and their weights. Torch only."""

from models.classifier import VideoClassifier
from models.clip import CLIP_SIZES, CLIPVision
from models.convert import LoadReport, load_weights
from models.decoders import DECODER_SIZES, FeatureDecoder, PixelDecoder
from models.encoder import Encoder
from models.text import TEXT_SIZES, CLIPText
from models.viclip import ViCLIPVision
from models.vit import SIZES, VideoViT

__all__ = [
    "CLIP_SIZES",
    "DECODER_SIZES",
    "SIZES",
    "TEXT_SIZES",
    "CLIPText",
    "CLIPVision",
    "Encoder",
    "FeatureDecoder",
    "LoadReport",
    "PixelDecoder",
    "ViCLIPVision",
    "VideoClassifier",
    "VideoViT",
    "load_weights",
]
