"""Known messages of libraries that tell a user of our commands nothing: advertisements, and deprecations inside them.

Each is named by its exact beginning and, of a warning, its category; all others, and every error, go through.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_TIPS = (
    "💡 Tip: For seamless cloud",  # Lightning's other products
    "Trainer already configured with model summary callbacks",  # ours, see `model_table`
    "`weights_only` was not set, defaulting to",  # checkpoints are read as plain values, whatever it is
)
_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # Lightning's own use of torch.utils._pytree
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    # on every machine with Slurm, also for a run on one device
    (r"The `srun` command is available on your system but is not used", UserWarning),
    # our loader has no sampler of batches, and what we write has the videos' names
    (r"Couldn't infer the batch indices fetched from your dataloader", UserWarning),
    # frozen parts are meant to be
    (r"Found \d+ module\(s\) in eval mode at the start of training", UserWarning),
    # a run without a validation set
    (r"Total length of `list` across ranks is zero", UserWarning),
    # a resumed run; a new run in such a folder is refused
    (r"Checkpoint directory .* exists and is not empty", UserWarning),
)
_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.pytorch.callbacks.model_summary",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)


@contextmanager
def without_known_messages() -> Iterator[None]:
    """Within it, the known messages are not shown."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with warnings.catch_warnings():
        for message, category in _WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=category)
        for logger in loggers:
            logger.addFilter(_is_wanted)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Whether a record is shown; a summary of a model loses its count of FLOPs, which Lightning does not make."""
    text = record.getMessage()
    if record.levelno < logging.WARNING and text.startswith(_TIPS):
        return False
    if text.endswith("Total Flops") and text.rpartition("\n")[2].startswith("0 "):
        record.msg, record.args = text.rpartition("\n")[0], None
    return True
