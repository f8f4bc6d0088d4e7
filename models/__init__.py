"""What you ship: encoders, decoders, heads and their weights. Torch only."""

from models.classifier import VideoClassifier
from models.convert import LoadReport, load_weights
from models.decoders import DECODER_SIZES, PixelDecoder
from models.encoder import Encoder
from models.vit import SIZES, VideoViT

__all__ = [
    "DECODER_SIZES",
    "SIZES",
    "Encoder",
    "LoadReport",
    "PixelDecoder",
    "VideoClassifier",
    "VideoViT",
    "load_weights",
]
