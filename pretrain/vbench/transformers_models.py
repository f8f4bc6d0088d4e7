"""A detector and a captioner of transformers, from folders of the user, that stand in for GRiT and Tag2Text.

They are named in every output: their scores are not comparable with VBench's own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.metrics.vbench.interfaces import Detections

# Without the second, transformers asks on a terminal whether to run code that lies in the folder.
_DATA_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def model_folder(folder: str | Path) -> str | Path:
    """The folder, if there is one: transformers takes another word for the name of a repository on the hub."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder of a model of transformers at {folder}")
    return folder


def _images(frames: Tensor) -> list[Any]:
    """uint8 `[n, 3, H, W]` as arrays `[H, W, 3]`."""
    return list(frames.permute(0, 2, 3, 1).contiguous().cpu().numpy())


class OpenVocabularyDetector:
    """OWLv2 or Grounding DINO, asked for `labels`. It writes no captions, so it cannot score color.

    Args:
        folder: a model of transformers for zero-shot object detection, with its processor.
        labels: names of the objects to look for; those of the prompts, as a rule.
        threshold: least score of a box.
    """

    def __init__(self, folder: str | Path, labels: Sequence[str], threshold: float = 0.3, device: str = "cpu") -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        if not labels:
            raise ValueError("an open-vocabulary detector needs the names of objects to look for")
        self.processor: Any = AutoProcessor.from_pretrained(model_folder(folder), **_DATA_ONLY)
        model: Any = AutoModelForZeroShotObjectDetection.from_pretrained(folder, **_DATA_ONLY)
        self.model = model.to(device).eval()
        self.labels, self.threshold, self.device = list(dict.fromkeys(labels)), threshold, device
        self.name = f"{model.config.model_type} of {Path(folder).name}"

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> list[Detections]:
        found = []
        for image in _images(frames):
            inputs = self.processor(images=[image], text=[self.labels], return_tensors="pt").to(self.device)
            (result,) = self.processor.post_process_grounded_object_detection(
                self.model(**inputs),
                threshold=self.threshold,
                target_sizes=[image.shape[:2]],
                text_labels=[self.labels],
            )
            names = [str(name) for name in result["text_labels"]]
            found.append(Detections(result["boxes"].float().cpu(), names, names))
        return found


class ImageCaptioner:
    """BLIP or another captioner of transformers; greedy decoding of at most `tokens` tokens.

    Args:
        folder: a model of transformers for image to text, with its processor.
    """

    def __init__(self, folder: str | Path, tokens: int = 50, device: str = "cpu") -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor: Any = AutoProcessor.from_pretrained(model_folder(folder), **_DATA_ONLY)
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, **_DATA_ONLY)
        self.model, self.tokens, self.device = model.to(device).eval(), tokens, device
        self.name = f"{model.config.model_type} of {Path(folder).name}"

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> list[str]:
        inputs = self.processor(images=_images(frames), return_tensors="pt").to(self.device)
        tokens = self.model.generate(**inputs, max_new_tokens=self.tokens, do_sample=False, num_beams=1)
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]
