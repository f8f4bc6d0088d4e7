"""GRiT-B and Tag2Text by the official code in the `vbench` package, behind the interfaces of the scorers.

They need what VBench needs for them: detectron2 for GRiT, and for Tag2Text transformers 4.33 and BERT's word list,
which that code fetches from the hub.

Letters in shapes: n frames, m objects, H and W pixels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from pretrain.metrics.vbench.interfaces import Detections
from pretrain.metrics.vbench.weights import read_weights
from pretrain.vbench.user_packages import import_official

_IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class GRiT:
    """GRiT-B's objects. As in VBench, frames are RGB, although the code says BGR.

    Args:
        weights: the official `grit_b_densecap_objectdet.pth`.
        captions: dense captions, for color: each then has the name of the first object of its frame, as VBench reads
            them. Otherwise names of objects, in the place of captions too.
    """

    name = "GRiT-B"

    def __init__(self, weights: str | Path, device: str = "cpu", captions: bool = False) -> None:
        module = import_official("third_party.grit_model", "detectron2, built for this torch")
        read_weights(weights)  # the official reader would run what a pickle says
        self.model, self.captions = module.DenseCaptioning(torch.device(device)), captions
        begin = self.model.initialize_model if captions else self.model.initialize_model_det
        begin(model_weight=str(weights))

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> list[Detections]:
        return [self._objects(image) for image in frames.permute(0, 2, 3, 1).contiguous().cpu().numpy()]

    def _objects(self, image: Any) -> Detections:
        rows, _ = self.model.run_caption_tensor(image)  # of each object: its text, its box, and all names of the frame
        texts = [text for text, _, _ in rows]
        names = [next(iter(found), "") for _, _, found in rows] if self.captions else texts
        boxes = torch.tensor([box for _, box, _ in rows], dtype=torch.float32).reshape(-1, 4)
        return Detections(boxes, names, texts)


class Tag2Text:
    """Tag2Text Swin-B's captions, by beam search, of frames scaled to 384 x 384.

    Args:
        weights: the official `tag2text_swin_14m.pth`.
    """

    name = "Tag2Text Swin-B"

    def __init__(self, weights: str | Path, device: str = "cpu") -> None:
        module = import_official("third_party.tag2Text.tag2text", "transformers 4.33 and a timm that fits it")
        read_weights(weights)
        model = module.tag2text_caption(pretrained=str(weights), image_size=384, vit="swin_b")
        self.model, self.device = model.to(device).eval(), torch.device(device)

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> list[str]:
        small = tv.resize(frames.contiguous(), [384, 384], InterpolationMode.BICUBIC, antialias=True)
        images = tv.normalize(small.float() / 255, *_IMAGENET).to(self.device)
        return list(self.model.generate(images, tag_input=None, return_tag_predict=True)[0])
