"""Features of a set of videos with a header of what they depend on; sets with other headers are not compared."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from datamodules.storage.whole_files import write_whole


@dataclass(frozen=True)
class Header:
    """What features depend on besides the videos.

    Args:
        extractor: name of the model and its weights. output: which of its outputs the features are.
        frames, height, width: of the clips that it was given. fps: frames of a clip a second.
        clips: of a video, whose features are averaged. videos: number of videos.
    """

    extractor: str
    output: str
    frames: int
    height: int
    width: int
    fps: float
    clips: int
    videos: int

    def require_same(self, other: "Header", where: str, videos: bool = False) -> None:
        """ValueError if features of the two cannot be compared; `videos`: their numbers must be equal too."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs and (field.name != "videos" or videos):
                raise ValueError(
                    f"{where} was made with {field.name} {theirs}, and these features with {mine}: distances of such "
                    "sets mean nothing. Make both with the same model and clips"
                    + (", and of as many videos" if field.name == "videos" else "")
                )


def write_features(path: str | Path, features: Tensor, header: Header) -> None:
    """Write features `[n, D]`, whole or not at all."""
    content = {"features": features.float().cpu().contiguous()}
    write_whole(path, save(content, metadata={"header": json.dumps(asdict(header))}))


def read_features(path: str | Path) -> tuple[Tensor, Header]:
    """The features `[n, D]` and the header of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of `write_features`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no features of real videos at {path}: make them first, with `save` in place of it")
    try:
        with safe_open(path, "pt") as file:
            features, header = file.get_tensor("features"), json.loads((file.metadata() or {})["header"])
            if features.ndim != 2 or not features.is_floating_point() or not features.isfinite().all():
                raise ValueError(f"features {list(features.shape)} that are no rows of finite numbers")
            return features, Header(**header)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no features with a header ({error}): make it again with `save`") from None
