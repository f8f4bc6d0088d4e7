"""The word for the color of most pixels of a picture, one of VBench's, by hue, saturation and brightness."""

import numpy as np
from PIL import Image

# Upper ends of hues in degrees; from the last one on, red again.
_HUES = ((15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (255, "blue"), (290, "purple"), (345, "pink"))
_BLACK, _GREY, _WHITE = 0.2, 0.15, 0.8  # brightness below; saturation below; brightness above where there is no color
_PINK = 0.5  # saturation below which a bright red is pink
WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "gray", "white")


def color_word(pixels: np.ndarray) -> str:
    """The commonest word of `pixels`, uint8 RGB `[H, W, 3]`; the first of WORDS among equals."""
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).reshape(-1, 3) / 255.0
    hue, saturation, value = 360 * hsv[:, 0], hsv[:, 1], hsv[:, 2]
    names = np.array([*(name for _, name in _HUES), "red"], dtype=object)
    found = names[np.searchsorted([end for end, _ in _HUES], hue, side="right")]
    found[(found == "red") & (saturation < _PINK) & (value > _WHITE)] = "pink"
    found[saturation < _GREY] = "gray"
    found[(saturation < _GREY) & (value > _WHITE)] = "white"
    found[value < _BLACK] = "black"
    counts = {word: int((found == word).sum()) for word in WORDS}
    return max(WORDS, key=counts.__getitem__)
