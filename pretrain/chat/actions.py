"""What happens in a video by a trained classifier, as a tool of VideoChat-Text."""

import numpy as np
import torch
import yaml

from datamodules.clips.crops import view
from datamodules.making.captions import Captioner
from pretrain.export.load_run import load_objective
from pretrain.objectives import Classify


class Actions(Captioner):
    """The name of the likeliest class of each clip.

    Args:
        run: a run or a checkpoint of `Classify`, whose data named the classes.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is of another method, or does not name its classes.
    """

    def __init__(self, run: str) -> None:
        objective, facts = load_objective(run)
        if not isinstance(objective, Classify) or objective.names is None:
            raise ValueError(f"{run} names no actions: give a run of Classify whose data name their classes")
        self.model, self.names, self.size = objective, objective.names, objective.model.encoder.size
        data = (yaml.safe_load(facts["recipe"] or "") or {}).get("data") or {}
        self.frames = (data.get("init_args") or {}).get("frames", objective.model.encoder.frames)

    def picture(self, frames: np.ndarray) -> np.ndarray:
        return view(frames, self.size)

    @torch.inference_mode()
    def __call__(self, clips: list[np.ndarray]) -> list[str]:
        video = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)  # [B, C, T, size, size]
        scores = self.model.predict({"video": video})["scores"]
        return [self.names[i] for i in scores.argmax(dim=1).tolist()]
