"""A checkpoint gives tensors and plain values: no pickled code in it runs, from a path, a URL or a sharded folder."""

import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from models import load_weights
from models.convert.sharded import read_sharded, require_safe
from pretrain.cli import main
from pretrain.engine.checkpoint import AtomicCheckpointIO
from pretrain.errors import reports_errors
from pretrain.export.load_run import load_objective
from tests.helpers.damage import flip_bit
from tests.helpers.paths import ROOT, TESTS
from tools.wise import main as wise

RUN = TESTS / "legacy/videomae/checkpoints/step=0000004.ckpt"
QUIET = [
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--trainer.limit_val_batches=1", "--trainer.max_steps=5"),
]


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.file}'",)


def evil_file(file: Path, canary: Path) -> Path:
    """The old run's checkpoint with a trap beside its weights."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**torch.load(RUN, weights_only=True), "more": Trap(canary)}, file)
    return file


def command(verb: str, folder: Path, checkpoint: object, capsys: pytest.CaptureFixture) -> str:
    """What a command of the old run's recipe says as it refuses a checkpoint, in one line."""
    place = [f"--trainer.logger.init_args.save_dir={folder}", "--trainer.logger.init_args.name=new"]
    recipe = ["-c", str(TESTS / "legacy/videomae/config.yaml"), *QUIET, *place]
    assert reports_errors(main)([verb, *recipe, f"--ckpt_path={checkpoint}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and not any("Traceback" in line for line in lines)
    return lines[-1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_url_runs_nothing(verb: str, server: tuple[Path, str], tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    folder, address = server
    evil_file(folder / "evil.ckpt", tmp_path / "canary")
    said = command(verb, tmp_path / "runs", f"{address}/evil.ckpt", capsys)
    assert f"{address}/evil.ckpt" in said and "posix.system" in said
    assert not (tmp_path / "canary").exists()


def test_a_url_is_read_and_checked_as_a_file_is(server: tuple[Path, str]) -> None:
    folder, address = server
    shutil.copy(RUN, folder / "run.ckpt")
    flip_bit(Path(shutil.copy(RUN, folder / "flipped.ckpt")))
    (folder / "cut.ckpt").write_bytes(RUN.read_bytes()[:-1000])
    io, expected = AtomicCheckpointIO(), torch.load(RUN, weights_only=True)["state_dict"]
    for url in (f"{address}/run.ckpt", f"file://{folder}/run.ckpt"):
        found = io.load_checkpoint(url, weights_only=False)["state_dict"]
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    for name in ("flipped", "cut"):
        with pytest.raises(ValueError, match=rf"{name}\.ckpt is cut or damaged"):
            io.load_checkpoint(f"{address}/{name}.ckpt")
    with pytest.raises(OSError, match=r"none\.ckpt cannot be fetched"):
        io.load_checkpoint(f"{address}/none.ckpt")


def test_no_reader_runs_a_pickle(tmp_path: Path) -> None:
    file = evil_file(tmp_path / "evil.ckpt", tmp_path / "canary")
    readers = (lambda: AtomicCheckpointIO().load_checkpoint(file, weights_only=False),
               lambda: load_objective(str(file)), lambda: load_weights(torch.nn.Linear(1, 1), file))  # fmt: skip
    for reader in readers:
        with pytest.raises(ValueError, match=r"evil\.ckpt cannot be read as weights.*posix\.system"):
            reader()
    assert not (tmp_path / "canary").exists()
    torch.load(file, weights_only=False)  # the trap works
    assert (tmp_path / "canary").exists()


# Damage of a file that is named by its path


@pytest.mark.parametrize("verb", ["fit", "validate", "export", "wise", "weights"])
def test_a_flipped_bit_is_found_wherever_a_path_is_given(verb: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    file = Path(shutil.copy(RUN, tmp_path / "run.ckpt"))
    flip_bit(file)
    if verb == "weights":
        with pytest.raises(ValueError, match=r"run\.ckpt is cut or damaged: its record .* has another checksum"):
            load_weights(torch.nn.Linear(1, 1), file)
        return
    if verb in ("fit", "validate"):
        said = command(verb, tmp_path / "runs", file, capsys)
    elif verb == "export":
        words = ["export", f"--ckpt={file}", "--to=safetensors", f"--out={tmp_path / 'out'}"]
        assert reports_errors(main)(words) == 2
        said = capsys.readouterr().err
    else:
        assert wise([str(RUN), str(file), "--out", str(tmp_path / "mixed.ckpt")]) == 2
        said = capsys.readouterr().err
    assert f"{file} is cut or damaged" in said


# Sharded folders, which torch's own reader unpickles


def sharded(folder: Path, more: dict | None = None) -> Path:
    """A folder as FSDP2 writes it, without a manifest."""
    state = {"state_dict": {"weight": torch.arange(6.0).view(2, 3)}, "optimizer_0": {"step": 3}}
    dcp.save({**state, **(more or {})}, storage_writer=dcp.FileSystemWriter(folder, single_file_per_rank=True))
    torch.save({"global_step": 3}, folder / "meta.pt")
    return folder


class Elsewhere:
    """Pickled as a call of `module.name`, which may hold dots, with one argument."""

    def __init__(self, module: str, name: str, argument: str) -> None:
        self.module, self.name, self.argument = module, name, argument

    def pickled(self) -> bytes:
        words = b"".join(pickle.SHORT_BINUNICODE + bytes([len(w)]) + w.encode() for w in (self.module, self.name))
        argument = pickle.BINUNICODE + len(self.argument).to_bytes(4, "little") + self.argument.encode()
        return pickle.PROTO + b"\x04" + words + pickle.STACK_GLOBAL + argument + pickle.TUPLE1 + pickle.REDUCE + b"."


NAMES = [
    ("posix", "system"),
    ("torch.distributed.checkpoint.filesystem", "os.system"),
    ("torch.distributed.checkpoint.utils", "os.system"),
    ("pathlib", "os.system"),
    ("torch.serialization", "os.system"),
    ("elsewhere.MetadataIndex", "MetadataIndex"),
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_the_index_of_a_sharded_folder_runs_nothing(module: str, name: str, tmp_path: Path) -> None:
    folder, canary = sharded(tmp_path / "run.ckpt"), tmp_path / "canary"
    require_safe(folder)
    (folder / ".metadata").write_bytes(Elsewhere(module, name, f"touch '{canary}'").pickled())
    for reader in (require_safe, read_sharded):
        with pytest.raises(ValueError, match=str(folder)):
            reader(folder)
    assert not canary.exists()
    if name == "os.system":  # torch's reader runs it
        with pytest.raises(Exception, match=""):
            dcp.FileSystemReader(folder).read_metadata().state_dict_metadata  # noqa: B018
        assert canary.exists()


def test_an_entry_of_a_sharded_folder_runs_nothing(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    canary = tmp_path / "canary"
    folder = sharded(tmp_path / "run.ckpt", {"more": Trap(canary)})
    for reader in (require_safe, read_sharded):
        with pytest.raises(ValueError, match=r"run\.ckpt is incomplete or damaged: .*posix\.system"):
            reader(folder)
    for verb in ("fit", "validate"):
        assert "posix.system" in command(verb, tmp_path / "runs", folder, capsys)
    assert not canary.exists()
    dcp.load({"more": 0}, storage_reader=dcp.FileSystemReader(folder))  # torch's reader runs it
    assert canary.exists()


def test_entries_that_torch_takes_for_no_tensor_are_checked(tmp_path: Path) -> None:
    """An entry that only looks like a tensor, since its index gives it a size."""
    canary = tmp_path / "canary"
    folder = sharded(tmp_path / "run.ckpt", {"more": Trap(canary)})
    metadata = dcp.FileSystemReader(folder).read_metadata()
    metadata.state_dict_metadata["more"].__dict__["size"] = torch.Size([1])
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=r"posix\.system"):
        require_safe(folder)
    assert not canary.exists()


def test_an_index_names_files_of_its_folder_only(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "run.ckpt")
    metadata = dcp.FileSystemReader(folder).read_metadata()
    for place in metadata.storage_data.values():
        place.relative_path = f"../run.ckpt/{place.relative_path}"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    for reader in (require_safe, read_sharded):
        with pytest.raises(ValueError, match="which is no file of the folder"):
            reader(folder)


def test_deepspeeds_files_run_nothing(tmp_path: Path) -> None:
    canary, folder = tmp_path / "canary", tmp_path / "run.ckpt"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "latest").write_text("checkpoint")
    torch.save({"module": {"weight": torch.zeros(2)}}, folder / "checkpoint/mp_rank_00_model_states.pt")
    require_safe(folder)
    torch.save({"more": Trap(canary)}, folder / "checkpoint/zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(ValueError, match=r"posix\.system"):
        require_safe(folder)
    (folder / "latest").write_text("../elsewhere")
    for reader in (require_safe, read_sharded):
        with pytest.raises(ValueError, match="which is no folder in it"):
            reader(folder)
    assert not canary.exists()
