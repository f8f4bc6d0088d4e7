"""A picture as a video of one frame, so that whatever takes videos takes pictures too."""

import io

import numpy as np

from datamodules.decoding.contract import DecodeError, Video

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so (12 bytes) is a JPEG, PNG, WebP or BMP."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return webp or head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"))


class Picture(Video):
    """One frame, whatever is asked of it more than once; upright, as its EXIF data say.

    Args:
        content: a path, or the bytes of a file.
        name: what errors call it.
    """

    fps = 0.0

    def __init__(self, content: str | bytes, name: str) -> None:
        from PIL import Image, ImageOps

        self.name = name
        try:
            with Image.open(content if isinstance(content, str) else io.BytesIO(content)) as image:
                upright = ImageOps.exif_transpose(image.convert("RGB") if image.mode != "I;16" else _eight_bits(image))
                self.pixels = np.asarray(upright)[None]
        # PIL raises SyntaxError on a broken PNG, and its own error on a picture too large to be one
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DecodeError(name, f"no picture that can be read ({error})") from None
        self.size = self.pixels.shape[1:3]

    def __len__(self) -> int:
        return 1

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        return self.pixels[wanted]


def _eight_bits(image: object) -> object:
    """A 16-bit grey picture in 8 bits: `convert` would cut its values off at 255."""
    from PIL import Image

    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
