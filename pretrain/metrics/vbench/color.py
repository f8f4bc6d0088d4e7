"""Color: whether the object has the colour of the prompt.

Of 16 frames (`middle_frames`): those with a caption of the object that has the wanted colour, over those with a caption
of the object that has any of twelve colour words. A model's score is the mean over videos; those without such a caption
are not scored. VBench captions with GRiT-B. Source: VBench `color.py`.

The object's name is the prompt without "a ", "an " and the colour, wherever they stand, as in VBench.
"""

from pretrain.metrics.vbench.frames import Block
from pretrain.metrics.vbench.interfaces import Detect, Detections
from pretrain.metrics.vbench.object_class import MIDDLE_16, detections_of
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts, VideoScore

COLORS = ["white", "red", "pink", "blue", "silver", "purple", "orange", "green", "gray", "yellow", "black", "grey"]


def object_of(prompt: str, color: str) -> str:
    """The object's name in a prompt such as "an orange umbrella"."""
    return prompt.replace("a ", "").replace("an ", "").replace(color, "").strip()


def color_counts(detections: list[Detections], name: str, color: str) -> tuple[int, int]:
    """Frames with a caption of object `name` that has `color`, and that has any colour."""
    captions = [
        [text for text, own in zip(frame.captions, frame.names, strict=True) if own == name] for frame in detections
    ]
    right = sum(any(color in text for text in frame) for frame in captions)
    any_color = sum(any(word in text for text in frame for word in COLORS) for frame in captions)
    return right, any_color


class Coloured:
    """A pass over one block of frames."""

    def __init__(self, video: VideoFacts, detect: Detect, name: str, color: str) -> None:
        self.video, self.detect, self.name, self.color = video, detect, name, color
        self.right, self.any_color = 0, 0

    def add(self, block: Block) -> None:
        right, any_color = color_counts(detections_of(block, self.detect), self.name, self.color)
        self.right, self.any_color = self.right + right, self.any_color + any_color

    def finish(self) -> VideoScore:
        if not self.any_color:
            raise NotScored(
                f"{self.video.name}: no caption names a colour of {self.name!r}; VBench leaves such videos out of color"
            )
        share = self.right / self.any_color
        return VideoScore(share, self.right, self.any_color, {"cur_success_frame_rate": share})


class Color:
    """Args: detect: see `interfaces.Detect`; its captions must describe the objects."""

    dimension, version, selection = "color", 1, MIDDLE_16

    def __init__(self, detect: Detect) -> None:
        self.detect = detect

    def start(self, video: VideoFacts) -> Coloured:
        color = video.answer(self.dimension, "color")
        return Coloured(video, self.detect, object_of(video.text(self.dimension), color), color)
