"""The json beside a film: the request, the weights and the versions, which make the same film again."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from datamodules.storage.json_text import json_text, read_json
from datamodules.storage.whole_files import write_whole
from models.fetch import sha256
from pretrain.generation.settings import Request

_LIBRARIES = ("tubelet", "torch", "diffusers", "transformers", "av")
DTYPES = ("float32", "bfloat16", "float16", "float64")  # of the UNets
_DECIDES = ("request", "weights", "source", "dtype", "tile")  # entries that decide the frames


def record_path(film: Path) -> Path:
    return film.with_suffix(".json")


def make_record(request: Request, weights: dict[str, dict[str, str]], dtype: str, tile: int) -> dict[str, Any]:
    """What decides a film.

    Args:
        weights: by stage, the SHA-256 of each file.
        dtype: of the UNets.
        tile: of the VAE.
    """
    versions = {name: version(name) for name in _LIBRARIES}
    if request.source is not None and Path(request.source).exists() and not Path(request.source).is_file():
        raise ValueError(f"the source {request.source} is not a regular file")
    source = None if request.source is None else sha256(Path(request.source))
    about = {"request": request.as_json(), "weights": weights, "source": source, "dtype": dtype, "tile": tile}
    return {**about, "versions": versions}


def same_film(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records describe the same film."""
    return all(one.get(name) == other.get(name) for name in _DECIDES)


def write_record(path: Path, record: dict[str, Any]) -> None:
    write_whole(path, json_text(record, indent=2) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """A record; ValueError if the file holds none."""
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("request"), dict):
        raise ValueError(f"{path} is no record of a film: take the json that lies beside one")
    weights = record.get("weights")
    if not isinstance(weights, dict) or not all(isinstance(sums, dict) for sums in weights.values()):
        raise ValueError(f"{path} does not name the weights of its film")
    if record.get("dtype") not in DTYPES or type(record.get("tile")) is not int:
        raise ValueError(f"{path} has no dtype among {', '.join(DTYPES)}, or no whole number `tile`")
    return record


def require_same_files(record: dict[str, Any], new: dict[str, Any], where: str) -> None:
    """ValueError if a film is repeated with other weights, or another video, than its record says; names may differ."""
    recorded = record.get("weights", {})
    if record.get("source") != new["source"]:
        raise ValueError(f"{where} was made from another video than {new['request']['source']} is now")
    for stage, sums in new["weights"].items():
        if sorted(sums.values()) != sorted(recorded.get(stage, {}).values()):
            other = next((name for name, value in sums.items() if value not in recorded.get(stage, {}).values()), "")
            raise ValueError(
                f"{where} was made with other weights of {stage} ({other} differs): give those by --weights"
            )
