"""Data: sources of videos, decoders, frame sampling, crops, and the data module that makes batches."""

import sys
from importlib import import_module

_HOMES = {
    "VideoData": "video",
    "Source": "sources.source",
    "Sample": "sources.source",
    "Exchange": "sources.source",
    "Synthetic": "sources.synthetic",
    "ShapeQuestions": "sources.shape_questions",
    "Actions": "sources.actions",
    "Rendered": "sources.rendered",
    "Listed": "sources.listed",
    "Files": "sources.files",
    "Annotated": "sources.annotated.annotations",
    "Instructions": "sources.annotated.instructions",
    "Table": "sources.annotated.tables",
    "Join": "sources.annotated.rows",
    "Mixture": "sources.mixture",
    "Shards": "sources.shards",
    "Latents": "sources.latents",
    "Decoder": "decoding.reader",
    "DecodeError": "decoding.contract",
    "Video": "decoding.contract",
    "Decord": "decoding.reader",
    "PyAV": "decoding.reader",
    "TorchCodec": "decoding.reader",
    "Sampler": "clips.sampling",
    "Dense": "clips.sampling",
    "Span": "clips.sampling",
    "Segments": "clips.sampling",
    "Spaced": "clips.sampling",
    "Sparse": "clips.sampling",
    "Crop": "clips.crops",
    "MultiScaleCrop": "clips.crops",
    "CentreCrop": "clips.crops",
    "RandomResizedCrop": "clips.eval_views",
    "Rectangle": "clips.rectangles",
    "Patch": "clips.rectangles",
    "CentrePatch": "clips.rectangles",
    "Augment": "clips.augment",
    "RandAugment": "clips.augment",
    "EvalView": "clips.eval_views",
    "Squares": "clips.eval_views",
    "Squash": "clips.eval_views",
    "CentreRectangle": "clips.rectangles",
    "Order": "sources.order",
}
__all__ = list(_HOMES)


def require_supported(platform: str) -> None:
    """ImportError on Windows, whose processes share neither memory nor locks as loading needs them."""
    if platform == "win32":
        raise ImportError("Windows is not supported: run this in WSL 2 (`wsl --install`), where it is Linux")


require_supported(sys.platform)


def __getattr__(name: str) -> object:
    """Imports a class on first use, so that tools without training do not import Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
    return getattr(import_module(f"datamodules.{_HOMES[name]}"), name)
