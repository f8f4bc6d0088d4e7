"""Films by `python -m pretrain predict`: the prompts of a file, shared among the processes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from pretrain.generation.cascade import Cascade
from pretrain.generation.prompts import read_prompts
from pretrain.generation.record import read_record, record_path
from pretrain.generation.settings import STAGES, Request, with_options
from pretrain.learning.batch import Batch
from pretrain.objectives.objective import Objective


class Prompts(pl.LightningDataModule):
    """The prompts of a text or csv file, each process's share of them.

    Args:
        file: see `pretrain.generation.prompts`.
        frames, height, width: of the base's clip, for lines that do not say.
        stages: that run.
        seed: of lines that name none; the command line copies it from `seed_everything`.
        global_batch: films are generated one at a time; it is 1.
    """

    def __init__(
        self,
        file: str,
        frames: int = 16,
        height: int = 320,
        width: int = 512,
        stages: list[str] | None = None,
        seed: int = 0,
        global_batch: int = 1,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer prompts than processes
        if global_batch != 1:
            raise MisconfigurationException(f"films are generated one at a time: global_batch is {global_batch}, not 1")
        self.file, self.stages = Path(file), tuple(stages or STAGES)
        self.default = Request("each line's", seed, frames, height, width, stages=self.stages)
        self.films: list[tuple[str, Request]] = []

    def setup(self, stage: str) -> None:
        self.films = list(read_prompts(self.file, self.default).items())

    def predict_dataloader(self) -> "Batches":
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        batches: list[dict[str, Any]] = [
            {"name": [name], "text": [json.dumps(request.as_json())], "weight": torch.ones(1)}
            for name, request in self.films[rank::world]
        ]
        return Batches(batches)


class Batches:
    """Batches that Lightning takes as they are: it would share a DataLoader's among the processes once more."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.batches)


class GenerateFilms(Objective):
    """Writes the films of the predicted prompts, as `tools/generate.py` does; a finished film is left as it is.

    `predict` gives `size` `[1, 3]`, the number of frames, height and width. Each process has its own copy of the
    networks, those of one stage at a time on its device.

    Args:
        folder: of weights, see `pretrain.generation.weights.find`.
        out: folder of the films.
        stages: that any prompt needs.
        steps, guidance, sampler, negative: by stage, or "all"; what is not named is LaVie's.
        dtype: of the networks.
        tile: see `FrameCodec`.
        base: see `Objective`.
    """

    def __init__(
        self,
        folder: str,
        out: str,
        stages: list[str] | None = None,
        steps: dict[str, int] | None = None,
        guidance: dict[str, float] | None = None,
        sampler: dict[str, str] | None = None,
        negative: dict[str, str] | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        tile: int = 512,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.weights = []  # they are the stages', not this module's
        self.folder, self.out, self.stages = folder, Path(out), tuple(stages or STAGES)
        options = {"steps": steps, "guidance": guidance, "sampler": sampler, "negative": negative}
        self.settings = with_options(self.stages, {name: values or {} for name, values in options.items()})
        self.network_type, self.tile = getattr(torch, dtype), tile
        self.cascade: Cascade | None = None
        self.needs = ()

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Generate the film of a batch of one: its `name`, and the request as JSON in `text`."""
        if self.cascade is None:
            alone = self.position[1] == 1  # several bars would write over each other
            self.cascade = Cascade(
                self.folder, self.stages, str(self.device), self.network_type, self.tile, progress=alone
            )
        (name,), (text,) = batch["name"], batch["text"]
        request = Request.from_json(json.loads(text), name)
        if lacking := [stage for stage in request.stages if stage not in self.stages]:
            raise MisconfigurationException(f"the data want {lacking[0]}, which the model's `stages` do not have")
        film = self.out / f"{name}.mp4"
        self.cascade.film(replace(request, settings=self.settings), film)
        about = read_record(record_path(film))["film"]
        return {"size": torch.tensor([[about["frames"], about["height"], about["width"]]])}
