"""TextMetric, the base of metrics that use the model on texts: the model, strings in the state, means over views."""

import weakref
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from pretrain.learning.batch import Batch
from pretrain.learning.precision import run_precision

Name = TypeVar("Name", str, tuple)


class TextModel(Protocol):
    """The methods of an objective that metrics call."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, `[n, D]`."""
        ...

    def match(self, tokens: Tensor, texts: Sequence[str]) -> Tensor:
        """Matching scores `[n]` of videos, given by their tokens, and texts."""
        ...


class TextMetric(Metric):
    """A metric that is given the objective before the first batch of each evaluation, and may keep strings.

    Strings are kept as bytes, so that ranks gather them like any other state.
    """

    full_state_update = False
    fields: tuple[str, ...] = ()  # of a batch, besides the video; `MetricCheck` requires them before the first step
    required_methods: tuple[str, ...] = ("encode_text",)  # of the objective
    facts: dict[str, str | int] = {}  # noqa: RUF012 size of the evaluation, set by `compute` for the table of results

    def attach(self, objective: nn.Module) -> None:
        """Keeps a weak reference to the objective, which is then no submodule of the metric."""
        missing = [name for name in self.required_methods if not hasattr(objective, name)]
        if missing:
            raise MisconfigurationException(
                f"{type(self).__name__} needs a model with `{'` and `'.join(missing)}`, which "
                f"{type(objective).__name__} has not: take it out of model.metrics, or choose another method"
            )
        self._objective = weakref.ref(objective)

    @property
    def objective(self) -> TextModel:
        """The model that is evaluated."""
        objective = self.__dict__.get("_objective", lambda: None)()
        if objective is None:
            raise RuntimeError(f"{type(self).__name__} calls the model: call metric.attach(objective) first")
        return objective

    def __getstate__(self) -> dict:
        return {name: value for name, value in super().__getstate__().items() if name != "_objective"}

    def add_string_state(self, name: str) -> None:
        """Adds an empty list of strings to the state."""
        self.add_state(f"{name}_bytes", [], dist_reduce_fx="cat")
        self.add_state(f"{name}_lengths", [], dist_reduce_fx="cat")

    def append_strings(self, name: str, strings: Sequence[str]) -> None:
        """Appends to a list of strings in the state."""
        content, lengths = pack(strings)
        getattr(self, f"{name}_bytes").append(content.to(self.device))
        getattr(self, f"{name}_lengths").append(lengths.to(self.device))

    def get_strings(self, name: str) -> list[str]:
        """A list of strings in the state; within `compute`, that of all ranks."""
        return unpack(*(dim_zero_cat(getattr(self, f"{name}_{part}")) for part in ("bytes", "lengths")))

    def encode(self, texts: Sequence[str], chunk: int = 256) -> Tensor:
        """Features of texts on the CPU, float32 `[n, D]`; equal texts are encoded once.

        Texts are encoded in alphabetical order, `chunk` at a time, so that chunks do not depend on the given order.
        """
        unique = sorted(set(texts)) or [""]
        with torch.no_grad(), run_precision(self.objective):
            features = [self.objective.encode_text(unique[i : i + chunk]) for i in range(0, len(unique), chunk)]
        row = {text: i for i, text in enumerate(unique)}
        return torch.cat([part.float().cpu() for part in features])[[row[text] for text in texts]]


def captions_of(names: Sequence[str], batch: Batch, metric: str) -> list[list[str]]:
    """The captions of each row; MisconfigurationException with the video's name if there are none."""
    if "text" not in batch:
        raise MisconfigurationException(
            f"{metric} needs the texts of each video, and the data have none, or not for every sample: give the list "
            "or the shards a `text`"
        )
    rows = [[text] if isinstance(text, str) else list(text) for text in batch["text"]]
    for name, texts in zip(names, rows, strict=True):
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise MisconfigurationException(
                f"{metric}: {name!r} has no caption, or an empty one ({texts!r:.80}): write one, or leave out the video"
            )
    return rows


def mean_by_name(
    names: Sequence[Name], values: Tensor, counts: Tensor | None = None
) -> tuple[list[Name], Tensor, Tensor]:
    """Means of `values` `[M, D]` over rows of equal name, sorted by name: names, float64 `[n, D]`, counts `[n]`.

    Args:
        names: strings, or tuples that begin with one.
        counts: weight of each row, `[M]`; None: 1.
    """
    order: list[Name] = sorted(set(names))
    position = {name: i for i, name in enumerate(order)}
    index = torch.tensor([position[name] for name in names], dtype=torch.long)
    weight = torch.ones(len(names)) if counts is None else counts.cpu()
    weight = weight.double()
    total = torch.zeros(len(order), values.shape[1], dtype=torch.float64)
    total.index_add_(0, index, values.cpu().double() * weight[:, None])
    count = torch.zeros(len(order), dtype=torch.float64).index_add_(0, index, weight)
    return order, total / count[:, None], count


def evaluated_source(objective: nn.Module) -> Any:
    """The source that the objective's trainer evaluates, or None."""
    trainer: Any = getattr(objective, "_trainer", None)
    data = getattr(trainer, "datamodule", None)
    return getattr(data, "test" if trainer is not None and trainer.testing else "val", None)


def require_nonempty(names: Sequence) -> None:
    """RuntimeError where no video was evaluated."""
    if not names:
        raise RuntimeError("there is nothing to evaluate: not one video could be read")


def pack(strings: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Strings as bytes, uint8 `[sum of lengths]`, and their lengths, int64 `[n]`."""
    encoded = [string.encode("utf-8", "surrogatepass") for string in strings]  # file names need not be valid text
    content = torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8) if any(encoded) else torch.zeros(0)
    return content.to(torch.uint8), torch.tensor([len(part) for part in encoded], dtype=torch.long)


def unpack(content: Tensor, lengths: Tensor) -> list[str]:
    """The strings of `pack`."""
    parts = content.cpu().split(lengths.tolist())
    return [part.numpy().tobytes().decode("utf-8", "surrogatepass") for part in parts]
