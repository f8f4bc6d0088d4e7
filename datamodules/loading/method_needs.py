"""What a method asks of its batches, by attributes of `Objective`; another LightningModule asks nothing."""

import logging
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.loading.text_rows import Encode
from datamodules.loading.token_batches import Tokenize
from datamodules.sources.source import Source

log = logging.getLogger(__name__)


def row_encoder(method: Any) -> Encode | None:
    """What the method makes of texts in the loading processes; None: it takes the texts."""
    return getattr(method, "row_encoder", None)


def tokenizer(method: Any) -> Tokenize | None:
    """What the method makes ids of texts by, in the loading processes; None: it takes no ids."""
    return getattr(method, "token_encoder", lambda: None)()


def on_host(method: Any, batch: dict) -> dict:
    """A batch as the method checks and completes it before it is copied to the device."""
    return method.on_host(batch) if hasattr(method, "on_host") else batch


def require_fields(method: Any, train: Source) -> None:
    """Warns if some training samples have a text or a label and others have none, which takes it from all batches.

    Raises:
        MisconfigurationException: the method learns from it.
    """
    needed = getattr(method, "needs", ())
    for field, has in (("text", train.texts), ("label", train.labels)):
        if not 0 < has < len(train):
            continue
        first = train.lacks(field)
        lack = f"{len(train) - has} of {len(train)} training samples have no {field}"
        lack += f", the first is {first}" if first else ""
        remedy = f"`require: [{field}]` of Files or Shards leaves them out"
        if field in needed:
            raise MisconfigurationException(f"{lack}: write one for each, or leave them out ({remedy})")
        log.warning("%s: batches have none (%s)", lack, remedy)
