"""An image as a video of one frame, so that everything that reads videos also reads images."""

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from datamodules.decoding.content import size_of
from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.limits import Limits

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # PIL's names of those that `is_image` recognises; it opens no other
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def is_image(head: bytes) -> bool:
    """Whether the first 12 bytes of a file are those of a JPEG, PNG, WebP or BMP."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return webp or head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"))


class StillImage(Video):
    """A video of one frame, rotated upright according to the EXIF data.

    Args:
        content: a path, or the bytes of a file.
        name: the name in error messages.
        limits: see `Limits`.

    Raises:
        DecodeError: it is not a readable image, or above a limit.
    """

    fps = 0.0

    def __init__(self, content: str | bytes, name: str, limits: Limits) -> None:
        from PIL import Image, ImageOps

        self.name, self.limits = name, limits
        size = size_of(content)
        if refusal := limits.refusal("picture_bytes", size, "bytes of an image"):
            raise DecodeError(name, refusal)
        try:
            with warnings.catch_warnings():  # PIL warns of many pixels, which the limit decides about
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(content if isinstance(content, str) else io.BytesIO(content), formats=_FORMATS)
            with image:
                if refusal := limits.refusal("frame_pixels", image.width * image.height, "pixels of an image"):
                    raise DecodeError(name, refusal)  # before PIL decodes it
                turned = ImageOps.exif_transpose(image)  # before a conversion, which may lose the EXIF data
                upright = turned.convert("RGB") if turned.mode != "I;16" else _eight_bits(turned)
                self.pixels = np.asarray(upright)[None]
        # PIL raises SyntaxError for a broken PNG, and DecompressionBombError for an implausibly large image.
        except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
            raise DecodeError(name, f"not a readable image ({error})") from None
        self.size = self.pixels.shape[1:3]

    def __len__(self) -> int:
        return 1

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        return self.pixels[wanted]


def _eight_bits(image: "PilImage") -> "PilImage":
    """Converts a 16-bit greyscale image to 8 bits; PIL's `convert` would clip its values at 255."""
    from PIL import Image

    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
