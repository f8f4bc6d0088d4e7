"""Weights of the cascade by the hub: a whole repository, or the official files by one name."""

from pathlib import Path

import pytest

from models.fetch import CACHE
from pretrain.generation.weights import find, fingerprints
from tests.helpers.hub import hub

PARTS = {f"{part}/config.json": b"{}" for part in ("vae", "text_encoder", "tokenizer")}


def test_a_repository_and_the_official_releases_stand_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "addresses"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    official = {f"CompVis/stable-diffusion-v1-4/{name}": data for name, data in PARTS.items()}
    mine = {f"my/film/base/{name}": data for name, data in {**PARTS, "model_index.json": b"{}"}.items()}
    with hub({"YaohuiW/LaVie/lavie_base.pt": b"weights", **official, **mine}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        released, own = find("lavie", ["base"])["base"], find("hf://my/film", ["base"])["base"]
    assert released.unet.read_bytes() == b"weights" and own.unet.name == "base"
    for place in (released, own):
        assert {part: folder.is_dir() for part, folder in (place.parts or {}).items()} == {
            "vae": True,
            "text_encoder": True,
            "tokenizer": True,
        }
    assert len(fingerprints(released, "lavie")) == 1
    with pytest.raises(FileNotFoundError, match="none is no folder of weights"):
        find(str(tmp_path / "none"), ["base"])
