"""A batch: its fields, and evaluation batches without the rows that only fill them up."""

from collections.abc import Sequence
from typing import Any, Required, TypedDict, cast

import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor


class Batch(TypedDict, total=False):
    """What the data module yields. A field is there only if every sample has it."""

    video: Required[Tensor]  # uint8 [B, C, T, H, W], or float if it is already normalised; not if there are `latents`
    latents: Tensor  # [B, 2C, T, h, w]: means and log variances of an autoencoder's posterior, not scaled
    text_states: Tensor  # [B, L, D]: states of a text encoder
    encoders: list[str]  # hash of what made latents and text states
    videos: int  # in the batch, each in one or several views; only if it differs from step to step
    text: list[str]
    ids: np.ndarray  # int64 [B, L], on the host: tokens of the texts, by the method's `token_encoder`
    image_ids: np.ndarray  # int64 [B, I, L], on the host: of the texts of images
    name: list[str]
    origin: list[str]  # the videos' own names, where `name` says where in a shard they are
    label: Tensor  # int64 [B], or [B, L] with several labels per video
    weight: Tensor  # [B], only in evaluation: 0 for rows that fill up the batch


def require_fields(batch: Batch, needed: Sequence[str], method: str) -> None:
    """MisconfigurationException if a training batch lacks a field that the losses of `method` need."""
    for field in needed:
        if field not in batch:
            raise MisconfigurationException(
                f"{method} learns from {' and '.join(needed)}, and the training data have no "
                f"`{field}`, or not for every sample: add it to the list or the shards, or leave out those without"
                + (" (`labels: folders` of Files: a folder for each class)" if field == "label" else "")
            )


def without_padding(batch: Batch) -> tuple[Batch, int]:
    """An evaluation batch without the rows of weight 0, and the number of rows left; one row is kept if none is."""
    weight = batch.get("weight")
    if weight is None:
        return batch, len(batch["video"] if "video" in batch else batch["latents"])
    index = weight.nonzero()[:, 0]
    rows = len(index)
    index = index if rows else torch.zeros(1, dtype=torch.long, device=weight.device)
    kept, fields = {}, cast(dict[str, Any], batch)
    for name, value in fields.items():
        if isinstance(value, Tensor):
            kept[name] = value[index]
        else:
            places = index.tolist()
            kept[name] = value[places] if isinstance(value, np.ndarray) else [value[i] for i in places]
    return cast(Batch, kept), rows


def first_row(batch: Batch, wrong: Tensor) -> int | None:
    """The first row that is `wrong` `[B]`, of those that do not only fill up the batch; None: there is none."""
    weight = batch.get("weight")
    rows = (wrong if weight is None else wrong & (weight > 0)).nonzero()
    return int(rows[0]) if len(rows) else None


def is_nested(values: Any) -> bool:
    """Whether a field has a list per sample, such as several captions: no single loss is defined for it."""
    return isinstance(values, list) and any(isinstance(value, list) for value in values)
