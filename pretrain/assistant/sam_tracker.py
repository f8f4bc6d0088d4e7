"""SAM 2 and EdgeTAM of transformers as a tracker: https://huggingface.co/docs/transformers/model_doc/sam2_video.

Each call of `propagate` streams frames through a session of its own, in the order in which they are visited, so that
backwards is like forwards; what the model no longer reads of earlier frames is dropped.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.decoding.contract import Video
from pretrain.assistant.prompts import Box, Mask, Points, Prompt, check
from pretrain.assistant.tracker import Cancelled, Stop, Tracker, visit


class SamTracker(Tracker):
    """A video model with memory.

    Args:
        model: Sam2VideoModel or EdgeTamVideoModel, in the type and on the device that it is to run in.
        processor: Sam2VideoProcessor of its sizes.
        name: for the page.
        chunk: frames in memory while it goes backwards, besides those that the model remembers.
    """

    def __init__(self, model: Any, processor: Any, name: str = "SAM 2", chunk: int = 16) -> None:
        self.model, self.processor, self.name, self.chunk = model.eval(), processor, name, chunk
        config = model.config
        self.kept = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        self.window = chunk + self.kept
        self.video: Video | None = None
        self.said: dict[tuple[str, int], list[Prompt]] = {}
        self.found: dict[tuple[str, int], np.ndarray] = {}

    def start(self, video: Video) -> None:
        self.video, self.said, self.found = video, {}, {}

    def add(self, object_id: str, prompt: Prompt) -> np.ndarray:
        video, key = self._film(), (object_id, prompt.frame)
        check(prompt, len(video), video.size, empty=True)
        earlier = self.said.get(key, []) if isinstance(prompt, Points) else []
        said = [*earlier, prompt]
        if isinstance(prompt, Mask) and not prompt.loose:
            mask = prompt.mask.copy()
        else:
            mask = self._segment(video.frames([prompt.frame])[0], said)
        self.said[key], self.found[key] = said, mask
        return mask.copy()

    def forget(self, object_id: str, frame: int | None = None) -> None:
        for key in [key for key in self.said if key[0] == object_id and frame in (None, key[1])]:
            del self.said[key], self.found[key]

    @torch.inference_mode()
    def propagate(
        self, object_ids: Sequence[str], first: int, stop: int, cancelled: Stop = lambda: False
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        video = self._film()
        for name in object_ids:
            if (name, first) not in self.found:
                raise ValueError(f"{name} was not pointed at in frame {first}")
        # an object that is out of sight where it starts has nothing to remember: it stays out of sight
        seen = [name for name in object_ids if self.found[name, first].any()]
        session = self._session(video.size)
        for step, (index, rgb) in enumerate(visit(video, first, stop, self.chunk)):
            if step and cancelled():
                raise Cancelled(f"tracking was stopped at frame {index}")
            masks = {name: np.zeros(video.size, bool) for name in object_ids}
            if seen:
                if step == 0:
                    given = [self.found[name, first] for name in seen]
                    self._add(session, 0, list(range(len(seen))), input_masks=given)
                found = self._run(session, step, rgb, video.size)
                masks |= {name: found[number] for number, name in enumerate(seen)}
                self._drop(session, step)
            if step:
                yield index, masks

    @torch.inference_mode()
    def _segment(self, rgb: np.ndarray, said: Sequence[Prompt]) -> np.ndarray:
        """The mask of a box or an outline, and of the points after it, in one frame."""
        size = (rgb.shape[0], rgb.shape[1])
        session, base = self._session(size), said[0]
        points = [each for each in said if isinstance(each, Points)]
        prompt: dict[str, Any] = {}
        if points:
            xy = [[float(x), float(y)] for each in points for x, y in each.xy]
            signs = [int(sign) for each in points for sign in each.positive]
            prompt = {"input_points": [[xy]], "input_labels": [[signs]]}
        if isinstance(base, Box):
            prompt["input_boxes"] = [[[base.left, base.top, base.right, base.bottom]]]
        elif isinstance(base, Mask) and base.loose:
            rows, columns = np.nonzero(base.mask)
            box = [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
            prompt["input_boxes"] = [[box]]
        elif isinstance(base, Mask):  # clicks correct a mask that the model remembers from the same picture
            self._add(session, 0, [0], input_masks=[base.mask])
            self._run(session, 0, rgb, size)
            self._run(session, 1, rgb, size)
            self._add(session, 1, [0], **prompt, original_size=size)
            return self._run(session, 1, None, size)[0]
        self._add(session, 0, [0], **prompt, original_size=size)
        return self._run(session, 0, rgb, size)[0]

    def _session(self, size: tuple[int, int]) -> Any:
        weight = next(self.model.parameters())
        session = self.processor.init_video_session(inference_device=weight.device, dtype=weight.dtype)
        session.video_height, session.video_width = size
        return session

    def _add(self, session: Any, frame: int, objects: list[int], **prompt: Any) -> None:
        self.processor.add_inputs_to_inference_session(session, frame, objects, **prompt)

    def _run(self, session: Any, frame: int, rgb: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
        """The masks of all objects, bool `[N, H, W]`; rgb: None for a frame that the session has."""
        given: dict[str, Any] = {"frame_idx": frame}
        if rgb is not None:
            given["frame"] = self.processor(images=rgb, return_tensors="pt")["pixel_values"][0]
        out = self.model(session, **given)
        (masks,) = self.processor.post_process_masks([out.pred_masks], original_sizes=[list(size)], binarize=True)
        return masks[:, 0].cpu().numpy().astype(bool)

    def _drop(self, session: Any, frame: int) -> None:
        """Forget pixels and outputs that later frames do not read."""
        session.processed_frames = {frame: session.processed_frames[frame]}
        for outputs in session.output_dict_per_obj.values():
            outputs["non_cond_frame_outputs"].pop(frame - self.kept, None)
        for tracked in session.frames_tracked_per_obj.values():
            tracked.pop(frame - self.kept, None)

    def _film(self) -> Video:
        if self.video is None:
            raise ValueError("no film is loaded: load one first")
        return self.video


def load_sam_tracker(folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> SamTracker:
    """The tracker of a folder of transformers, with `config.json`, `model.safetensors` and the processor's files.

    Raises:
        ImportError: transformers is not installed, or is older than these models.
        ValueError: the folder is not there, or holds another kind of model.
    """
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise ValueError(f"{place} holds no config.json: give a folder of SAM 2 or EdgeTAM in transformers' layout")
    try:
        from transformers import AutoConfig, EdgeTamVideoModel, Sam2VideoModel, Sam2VideoProcessor
    except ImportError as error:
        raise ImportError("SAM 2 and EdgeTAM need transformers 5: pip install 'transformers>=5'") from error
    kinds: dict[str, Any] = {"sam2_video": Sam2VideoModel, "edgetam_video": EdgeTamVideoModel}
    config = AutoConfig.from_pretrained(place, local_files_only=True)
    if config.model_type not in kinds:
        raise ValueError(f"{place} holds a {config.model_type}, and a tracker is one of {', '.join(kinds)}")
    model = kinds[config.model_type].from_pretrained(place, local_files_only=True, dtype=dtype).to(device)
    processor = Sam2VideoProcessor.from_pretrained(place, local_files_only=True)
    names = {"sam2_video": "SAM 2", "edgetam_video": "EdgeTAM"}
    return SamTracker(model, processor, f"{names[config.model_type]} of {place.name}")
