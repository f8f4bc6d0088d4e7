"""What the models saw: sources of videos, decoders, sampling, crops, and the data module that makes batches of them."""

from importlib import import_module

_HOMES = {
    "VideoData": "video",
    "Source": "source",
    "Sample": "source",
    "Synthetic": "synthetic",
    "Files": "files",
    "Annotated": "annotations",
    "Table": "tables",
    "Join": "gather",
    "Mixture": "mixture",
    "Shards": "shards",
    "Decoder": "decode",
    "DecodeError": "decode",
    "Video": "decode",
    "Decord": "decode",
    "PyAV": "decode",
    "TorchCodec": "decode",
    "Sampler": "sampling",
    "Dense": "sampling",
    "Span": "sampling",
    "Segments": "sampling",
    "Spaced": "sampling",
    "Sparse": "sampling",
    "Crop": "transforms",
    "MultiScaleCrop": "transforms",
    "CentreCrop": "transforms",
    "RandomResizedCrop": "framing",
    "Augment": "augment",
    "RandAugment": "augment",
    "View": "framing",
    "Squares": "framing",
    "Squash": "framing",
    "Order": "stream",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Imports a class when it is asked for: tools that only cut videos need not wait for Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
    return getattr(import_module(f"datamodules.{_HOMES[name]}"), name)
