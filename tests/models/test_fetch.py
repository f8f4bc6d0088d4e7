"""Weights by a release's name, from the hub and by address, against a server on loopback."""

import io
import re
from pathlib import Path

import pytest
import torch

import models
from models import fetch
from models.fetch import CACHE, is_here, local_path
from models.releases import RELEASES, Release
from tests.helpers.hub import hub


def saved(**tensors: torch.Tensor) -> bytes:
    out = io.BytesIO()
    torch.save(tensors, out)
    return out.getvalue()


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, no waiting between tries, and no hub but the test's."""
    monkeypatch.setenv(CACHE, str(tmp_path / "addresses"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    return tmp_path


def named(monkeypatch: pytest.MonkeyPatch, place: str, sha256: str | None = None) -> None:
    monkeypatch.setitem(RELEASES, "a_release", Release("X", "B", "data", place, None, sha256))


def test_a_release_by_name_comes_from_the_hub_once(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub({"some/where/deep/w.pth": saved(x=torch.ones(3))}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        named(monkeypatch, "hf://some/where/deep/w.pth")
        assert not is_here(RELEASES["a_release"])
        assert torch.equal(models.convert.read.read_tensors("a_release")["x"], torch.ones(3))
        assert is_here(RELEASES["a_release"])
        before = sum(method == "GET" for method, *_ in server.requests)
        assert local_path("hf://some/where/deep/w.pth").name == "w.pth"
        assert sum(method == "GET" for method, *_ in server.requests) == before == 1


def test_a_folder_of_the_hub_comes_without_its_other_formats(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5")
    with hub({f"some/model/{name}": b"{}" for name in names}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        folder = local_path("hf://some/model")
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("hf://some/model/none.pth", "some/model has no file none.pth"),
        ("hf://no/body/w.pth", "the hub has no repository no/body"),
        ("hf://closed/model/w.pth", "accept it on the page of closed/model, then `hf auth login`"),
        ("hf://onlyowner", "is no address of the hub: hf://OWNER/NAME"),
        ("ftp://host/w.pth", "weights by ftp:// are unknown"),
    ],
)
def test_what_cannot_be_had_is_a_sentence(
    caches: Path, monkeypatch: pytest.MonkeyPatch, place: str, reason: str
) -> None:
    with hub({"some/model/w.pth": b"1", "closed/model/w.pth": b"2"}) as server:
        server.gated.add("closed/model")
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        with pytest.raises((FileNotFoundError, ValueError), match=re.escape(reason)):
            local_path(place)


def test_without_a_network_the_cache_is_used_and_an_absent_file_is_a_sentence(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub({"some/model/w.pth": b"1"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        here = local_path("hf://some/model/w.pth")
    assert local_path("hf://some/model/w.pth") == here  # the server is gone
    with pytest.raises(FileNotFoundError, match="is not in the hub's cache, and the hub cannot be reached"):
        local_path("hf://some/model/other.pth")


def test_a_file_that_came_damaged_from_the_hub_is_not_kept(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub({"some/model/w.pth": b"weights"}) as server:
        server.wrong.add("some/model/w.pth")
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        with pytest.raises(ValueError, match="came damaged: its SHA-256 is not the hub's"):
            local_path("hf://some/model/w.pth")
        server.wrong.clear()
        assert local_path("hf://some/model/w.pth").read_bytes() == b"weights"


def test_a_download_goes_on_where_it_was_cut(caches: Path) -> None:
    content = bytes(range(256)) * 64
    with hub({"w.pth": content}) as server:
        server.cut = [5000, 100]
        path = local_path(f"{server.address}/w.pth")
        assert path.read_bytes() == content
        assert [wanted for *_, wanted in server.requests] == [None, "bytes=5000-", "bytes=5100-"]
        assert local_path(f"{server.address}/w.pth") == path and len(server.requests) == 3
        assert [file.name for file in path.parent.iterdir() if not file.name.endswith(".lock")] == ["w.pth"]


def test_a_download_that_never_comes_is_an_error_and_what_came_is_kept(caches: Path) -> None:
    with hub({"w.pth": b"x" * 9000}) as server:
        server.cut = [5000, *[0] * 9]
        with pytest.raises(FileNotFoundError, match=r"it was cut after 5000 bytes.*the next start goes on"):
            local_path(f"{server.address}/w.pth")
        server.cut = []
        assert local_path(f"{server.address}/w.pth").stat().st_size == 9000
        assert server.requests[-1][2] == "bytes=5000-"


def test_a_file_that_changed_since_it_was_cut_comes_whole(caches: Path) -> None:
    with hub({"w.pth": b"a" * 9000}) as server:
        server.cut = [5000, *[0] * 9]
        with pytest.raises(FileNotFoundError):
            local_path(f"{server.address}/w.pth")
        server.cut, server.files["w.pth"] = [], b"b" * 8000
        assert local_path(f"{server.address}/w.pth").read_bytes() == b"b" * 8000


def test_another_hash_than_the_releases_is_refused(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub({"w.pth": b"weights"}) as server:
        named(monkeypatch, f"{server.address}/w.pth", "0" * 64)
        with pytest.raises(ValueError, match="its release states 0000000000000000"):
            local_path("a_release")
        assert not is_here(RELEASES["a_release"])
        with pytest.raises(FileNotFoundError, match="the server answers 404"):
            local_path(f"{server.address}/none.pth")


def test_a_path_comes_before_a_name(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(caches)
    Path("umt_b").touch()
    assert local_path("umt_b") == Path("umt_b")


def test_each_release_has_a_place_and_a_name() -> None:
    for name, release in RELEASES.items():
        assert re.fullmatch(r"[a-z0-9_]+", name) and release.method and release.size and release.trained
        assert re.match(r"hf://[\w.-]+/[\w.-]+(/.+)?$|https://[\w.-]+/.+", release.place), name
        assert release.sha256 is None or re.fullmatch("[0-9a-f]{64}", release.sha256)
    places = [release.place for release in RELEASES.values()]
    assert len(set(places)) == len(places)


def test_a_language_model_comes_from_the_hub(caches: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from models.chat.language_model import language_model

    size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    made = language_model({"model_type": "llama", "vocab_size": 16, **size})
    made.save_pretrained(tmp_path / "folder")
    with hub({f"some/llm/{file.name}": file.read_bytes() for file in (tmp_path / "folder").iterdir()}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        found = language_model("hf://some/llm")
    assert torch.equal(found.get_input_embeddings().weight, made.get_input_embeddings().weight)
