"""The models that are shipped: encoders, decoders, heads and their weights."""

from models.bert import BERT_SIZES, Bert
from models.caption import CaptionDecoder
from models.classifier import Classifier, VideoClassifier
from models.clip import CLIP_SIZES, CLIPVision
from models.convert import LoadReport, load_weights
from models.coordinate import Coordinated
from models.decoders import DECODER_SIZES, FeatureDecoder, PixelDecoder
from models.diffusion import UNET_SIZES, SpatioTemporalUNet
from models.encoder import Encoder
from models.frame_encoder import FrameEncoder, TimmEncoder, TransformersEncoder
from models.frame_teacher import FrameTeacher
from models.fusion import FusionDecoder
from models.probe import AttentiveProbe, LinearProbe
from models.text import TEXT_SIZES, CLIPText
from models.tokenizers import BertTokenizer, CLIPTokenizer, Words
from models.uniformerv2 import UniFormerV2, UniFormerV2Classifier
from models.viclip import ViCLIPVision
from models.vit import SIZES, VideoViT

__all__ = [
    "BERT_SIZES",
    "CLIP_SIZES",
    "DECODER_SIZES",
    "SIZES",
    "TEXT_SIZES",
    "UNET_SIZES",
    "AttentiveProbe",
    "Bert",
    "BertTokenizer",
    "CLIPText",
    "CLIPTokenizer",
    "CLIPVision",
    "CaptionDecoder",
    "Classifier",
    "Coordinated",
    "Encoder",
    "FeatureDecoder",
    "FrameEncoder",
    "FrameTeacher",
    "FusionDecoder",
    "LinearProbe",
    "LoadReport",
    "PixelDecoder",
    "SpatioTemporalUNet",
    "TimmEncoder",
    "TransformersEncoder",
    "UniFormerV2",
    "UniFormerV2Classifier",
    "ViCLIPVision",
    "VideoClassifier",
    "VideoViT",
    "Words",
    "load_weights",
]
