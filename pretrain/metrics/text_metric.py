"""Asking: what metrics share that ask the model about texts: the model, strings among tensors, means over views."""

import weakref
from collections.abc import Sequence

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Asking(Metric):
    """A metric that is told the objective before the first batch of each evaluation, and may keep strings.

    Strings are kept as bytes, so that they travel between ranks as all state does.
    """

    full_state_update = False
    asks: tuple[str, ...] = ("encode_text",)  # the methods that the objective must have
    facts: dict[str, str | int] = {}  # noqa: RUF012 what was measured, set by `compute` for the table of results

    def attach(self, objective: nn.Module) -> None:
        """Keeps a weak reference, which makes the model no part of the metric."""
        missing = [name for name in self.asks if not hasattr(objective, name)]
        if missing:
            raise MisconfigurationException(
                f"{type(self).__name__} needs a model with `{'` and `'.join(missing)}`, which "
                f"{type(objective).__name__} has not: take it out of model.init_args.metrics, or choose another method"
            )
        self._asked = weakref.ref(objective)

    @property
    def objective(self) -> nn.Module:
        """The model that is judged."""
        found = self.__dict__.get("_asked", lambda: None)()
        if found is None:
            raise RuntimeError(f"{type(self).__name__} asks the model: call metric.attach(objective) first")
        return found

    def __getstate__(self) -> dict:
        return {name: value for name, value in super().__getstate__().items() if name != "_asked"}

    def add_strings(self, name: str) -> None:
        """Adds a list of strings to the state."""
        self.add_state(f"{name}_bytes", [], dist_reduce_fx="cat")
        self.add_state(f"{name}_lengths", [], dist_reduce_fx="cat")

    def put(self, name: str, strings: Sequence[str]) -> None:
        """Appends to a list of strings."""
        content, lengths = pack(strings)
        getattr(self, f"{name}_bytes").append(content.to(self.device))
        getattr(self, f"{name}_lengths").append(lengths.to(self.device))

    def take(self, name: str) -> list[str]:
        """A list of strings, of all ranks within `compute`."""
        return unpack(*(dim_zero_cat(getattr(self, f"{name}_{part}")) for part in ("bytes", "lengths")))

    def encode(self, texts: Sequence[str], chunk: int = 256) -> Tensor:
        """Features of texts on the CPU, float32 `[n, D]`; those that read the same are encoded once.

        Chunks are cut from the texts in order of the alphabet, so that they do not depend on who asks in what order.
        """
        unique = sorted(set(texts)) or [""]
        with torch.no_grad():
            made = [self.objective.encode_text(unique[i : i + chunk]) for i in range(0, len(unique), chunk)]
        place = {text: i for i, text in enumerate(unique)}
        return torch.cat([part.float().cpu() for part in made])[[place[text] for text in texts]]


def captions_of(names: Sequence[str], batch: dict, who: str) -> list[list[str]]:
    """Each row's captions; an error that names the video where there are none."""
    if "text" not in batch:
        raise MisconfigurationException(
            f"{who} needs the texts of each video, and the data have none, or not for every sample: give the list or "
            "the shards a `text`"
        )
    rows = [[text] if isinstance(text, str) else list(text) for text in batch["text"]]
    for name, texts in zip(names, rows, strict=True):
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise MisconfigurationException(
                f"{who}: {name!r} has no caption, or an empty one ({texts!r:.80}): write one, or leave out the video"
            )
    return rows


def averages(names: Sequence, values: Tensor, counts: Tensor | None = None) -> tuple[list, Tensor, Tensor]:
    """Means of `values` `[M, D]` over rows of one name, in order of name: names, float64 `[n, D]`, counts `[n]`.

    Names may be strings, or tuples that begin with one.

    Args:
        counts: how much each row weighs, `[M]`; 1 by default.
    """
    order = sorted(set(names))
    place = {name: i for i, name in enumerate(order)}
    index = torch.tensor([place[name] for name in names], dtype=torch.long)
    weight = torch.ones(len(names)) if counts is None else counts.cpu()
    weight = weight.double()
    total = torch.zeros(len(order), values.shape[1], dtype=torch.float64)
    total.index_add_(0, index, values.cpu().double() * weight[:, None])
    count = torch.zeros(len(order), dtype=torch.float64).index_add_(0, index, weight)
    return order, total / count[:, None], count


def require_nonempty(names: Sequence) -> None:
    """An error where there is nothing to judge."""
    if not names:
        raise RuntimeError("there is nothing to judge: not one video could be read")


def pack(strings: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Strings as bytes, uint8 `[sum of lengths]`, and their lengths, int64 `[n]`."""
    encoded = [string.encode("utf-8", "surrogatepass") for string in strings]  # file names need not be valid text
    content = torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8) if any(encoded) else torch.zeros(0)
    return content.to(torch.uint8), torch.tensor([len(part) for part in encoded], dtype=torch.long)


def unpack(content: Tensor, lengths: Tensor) -> list[str]:
    """The strings of `pack`."""
    parts = content.cpu().split(lengths.tolist())
    return [part.numpy().tobytes().decode("utf-8", "surrogatepass") for part in parts]
