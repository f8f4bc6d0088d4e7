"""Weights that claim more than their file holds are refused by name before memory is given to them."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from models.convert.claims import require_held, require_modest
from models.convert.integrity import MANIFEST, is_complete_folder
from models.convert.read import read_tensors
from models.convert.sharded import read_sharded, require_safe
from models.convert.torchscript import is_script, read_script
from models.convert.zero import read_zero
from pretrain.engine.checkpoint import AtomicCheckpointIO, is_complete, load_plain, require_complete
from tests.helpers import claims
from tests.helpers.claims import Storage, Tensor, Zeros

MANY = 2**28  # numbers, which would be a GB
HELD = bytes(range(16))  # four numbers

CLAIMS: dict[str, tuple[Any, str]] = {
    "a long storage": (Tensor(Storage(MANY), (4,), (1,)), "storage 0 claims 1073741824 bytes, and the file holds"),
    "a large shape": (Tensor(Storage(4), (MANY,), (1,)), "claims 1073741824 bytes, and its storage has 16"),
    "a far place": (Tensor(Storage(4), (1,), (1,), MANY), "claims 1073741828 bytes, and its storage has 16"),
    "a wide stride": (Tensor(Storage(4), (2,), (MANY,)), "claims 1073741828 bytes, and its storage has 16"),
    "a repeated number": (Tensor(Storage(4), (MANY, 4), (0, 1)), "claims 4294967296 bytes, and its storage has 16"),
    "a negative place": (Tensor(Storage(4), (2,), (1,), -1), "a tensor without a shape"),
    "a length that is no number": (Tensor(Storage(2.5), (2,), (1,)), "storage of no known kind or length"),
    "many storages": (
        [Tensor(Storage(64, key), (4,), (1,)) for key in (*"0123456789", *"abcdefghijklmnopqrst")],
        r"(claims 256 bytes, and the file holds 16|its storages claim more than the \d+ bytes)",
    ),
    "zeros": (Zeros(2**30), "asks for 1073741824 bytes of zeros"),
    "a class of tensors": (pickle.loads(b"ctorch\nTensor\n."), ""),  # legal: only its call would allocate
}


@pytest.mark.parametrize("kind", CLAIMS)
@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_claim_is_refused_by_every_reader(kind: str, form: str, tmp_path: Path) -> None:
    content, reason = CLAIMS[kind]
    write, place = {"zip": (claims.zipped, "data/0"), "old": (claims.old, "0")}[form]
    file = write(tmp_path / "weights.ckpt", {"weight": content}, {place: HELD})
    if not reason:
        with file.open("rb") as stream:
            return require_held(stream)
    readers = (read_tensors, lambda path: load_plain(path, str(path), "cpu"), AtomicCheckpointIO().load_checkpoint)
    for reader in readers:
        with pytest.raises(ValueError, match=rf"weights\.ckpt cannot be read as weights.*{reason}"):
            reader(file)
    return None


def test_a_call_of_the_class_of_tensors_is_refused() -> None:
    call = b"ctorch\nTensor\n" + pickle.BININT + MANY.to_bytes(4, "little") + pickle.TUPLE1 + pickle.REDUCE + b"."
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.PROTO + b"\x02" + call)
    with pytest.raises(pickle.UnpicklingError):
        require_held(stream)


def test_compressed_and_shared_records_are_refused(tmp_path: Path) -> None:
    whole = {"weight": Tensor(Storage(2**20), (2**20,), (1,))}
    file = claims.zipped(tmp_path / "small.ckpt", whole, {"data/0": bytes(2**22)}, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 2**14 and not is_complete(file)
    with pytest.raises(ValueError, match=r"small\.ckpt is cut or damaged: its record \S+ is compressed"):
        read_tensors(file)
    with pytest.raises(ValueError, match=r"its record archive/data\.pkl is compressed"):
        load_plain(file, str(file), "cpu")
    with pytest.raises(Exception, match=r"small\.ckpt is cut or damaged \(its record \S+ is compressed"):
        require_complete(str(file))
    shared = tmp_path / "shared.ckpt"
    with zipfile.ZipFile(shared, "w") as archive:
        archive.writestr("archive/data.pkl", claims.pickled({}))
        archive.writestr("archive/data/0", bytes(2**16))
        for number in range(1, 9):  # further names of the same bytes
            archive.filelist.append(again := zipfile.ZipInfo(f"archive/data/{number}"))
            first = archive.getinfo("archive/data/0")
            for field in ("file_size", "compress_size", "CRC", "header_offset"):
                setattr(again, field, getattr(first, field))
    with pytest.raises(ValueError, match=r"shared\.ckpt is cut or damaged: its records claim \d+ bytes, and the file"):
        read_tensors(shared)


def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    """torch's reader does not tell capitals from small letters."""
    crafted = {"DATA.PKL": claims.pickled({"weight": Zeros(2**30)}), "data/0": HELD}
    file = claims.zipped(tmp_path / "two.ckpt", {"weight": Tensor(Storage(4), (4,), (1,))}, crafted)
    with pytest.raises(ValueError, match=r"two records archive/DATA\.PKL"):
        load_plain(file, str(file), "cpu")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_is_read(zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(12.0)
    content = {
        "parameter": torch.nn.Parameter(torch.ones(2, 3)),
        "views": [base, base[4:], base.view(3, 4).t(), base[:1].expand(5)],
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3),
        "kinds": [torch.ones(3, dtype=d) for d in (torch.bfloat16, torch.bool, torch.complex64, torch.float8_e4m3fn)],
        "plain": OrderedDict(a={1, 2}, b=b"bytes", c=bytearray(b"more"), d=torch.Size([2]), e=(None, 1.5, 2**70)),
    }
    if not zipped:
        del content["kinds"][3]  # younger than that format
    file = tmp_path / "weights.ckpt"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    found = load_plain(file, str(file), "cpu")
    assert torch.equal(found["views"][2], content["views"][2]) and torch.equal(found["views"][3], torch.zeros(5))
    assert found["plain"] == content["plain"] and [t.dtype for t in found["kinds"]] == [
        t.dtype for t in content["kinds"]
    ]
    assert is_complete(file) == zipped


def test_a_pickle_makes_no_table(tmp_path: Path) -> None:
    """Python's reader would keep a table of as many places as the largest number in it."""
    for content in (claims.numbered(2**31), pickle.PROTO + b"\x02" + pickle.BINUNICODE + b"\xff\xff\xff\x7f"):
        with pytest.raises(pickle.UnpicklingError, match=r"numbers an object 2147483648|is damaged"):
            require_modest(io.BytesIO(content))
    (tmp_path / ".metadata").write_bytes(claims.numbered(2**31))
    for reader in (read_sharded, require_safe):
        with pytest.raises(ValueError, match="numbers an object 2147483648"):
            reader(tmp_path)
    script = tmp_path / "script.pt"
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("archive/data.pkl", claims.numbered(2**31))
        archive.writestr("archive/constants.pkl", pickle.dumps(()))
    assert is_script(script)
    with pytest.raises(ValueError, match=r"script\.pt .* numbers an object 2147483648"):
        read_script(script)


class Module:
    """Pickled as an object of a TorchScript program."""


def test_a_script_claims_no_more_than_it_holds(tmp_path: Path) -> None:
    content = claims.pickled(Module()).replace(Module.__module__.encode(), b"__torch__.m")
    itself = content[:-1].replace(b"NULL", b"")  # a module that holds itself is no endless tree
    script = tmp_path / "script.pt"

    def write(pickled: bytes) -> None:
        with zipfile.ZipFile(script, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/constants.pkl", pickle.dumps(()))
            archive.writestr("archive/data/0", HELD)

    state = claims.pickled({"weight": Tensor(Storage(4), (MANY, 4), (0, 1))})[2:-1]
    write(content[:-1] + state + pickle.BUILD + b".")
    with pytest.raises(ValueError, match=r"script\.pt .* claims 4294967296 bytes, and its storage has 16"):
        read_script(script)
    write(itself + b"q\x09" + pickle.EMPTY_DICT + pickle.SHORT_BINSTRING + b"\x01a" + b"h\x09" + b"sb.")
    with pytest.raises(ValueError, match="cannot be read as weights only"):
        read_script(script)


# Sharded folders


def sharded(folder: Path, **more: Any) -> Path:
    state = {
        "state_dict": {"weight": torch.arange(6.0).view(2, 3)},
        "optimizer_0": {"groups": [torch.ones(1), torch.ones(1)]},
        **more,
    }
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, single_file_per_rank=True))
    return folder


def change(folder: Path, how: Any) -> None:
    metadata = dcp.FileSystemReader(folder).read_metadata()
    how(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def weight_of(metadata: Any) -> Any:
    return metadata.state_dict_metadata["state_dict.weight"]


def large_shape(metadata: Any) -> None:
    weight_of(metadata).size = torch.Size([2**20, 2**10])


def large_chunk(metadata: Any) -> None:
    size = torch.Size([2**20, 2**10])
    weight_of(metadata).size = size
    weight_of(metadata).chunks = [ChunkStorageMetadata(torch.Size([0, 0]), size)]


def no_chunks(metadata: Any) -> None:
    weight_of(metadata).size, weight_of(metadata).chunks = torch.Size([2**20, 2**10]), []


def far_index(metadata: Any) -> None:
    path = next(path for path in metadata.planner_data.values() if isinstance(path[-1], int))
    name = next(name for name, each in metadata.planner_data.items() if each == path)
    metadata.planner_data[name] = (*path[:-1], 2**30)


def long_entry(metadata: Any) -> None:
    next(iter(metadata.storage_data.values())).length = 2**40


def many_entries(metadata: Any) -> None:
    index, at = next((i, at) for i, at in metadata.storage_data.items() if i.fqn == "state_dict.weight")
    for number in range(200):
        metadata.storage_data[type(index)(f"state_dict.more{number}", index.offset)] = at


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (large_shape, r"weight claims the shape \[1048576, 1024\], which its chunks do not fill"),
        (large_chunk, r"a chunk of state_dict.weight has the shape \[2, 3\], not \[1048576, 1024\]"),
        (no_chunks, "which its chunks do not fill"),
        (far_index, r"it has an entry at \[.*1073741824\]"),
        (long_entry, "its entries claim 10995.* bytes, and its files have"),
        (many_entries, r"its entries claim \d+ bytes, and its files have"),
    ],
)
def test_the_index_of_a_sharded_folder_claims_no_more_than_it_holds(how: Any, reason: str, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "run.ckpt")
    assert torch.equal(read_sharded(folder)["state_dict"]["weight"], torch.arange(6.0).view(2, 3))
    change(folder, how)
    with pytest.raises(ValueError, match=rf"run\.ckpt is incomplete or damaged: .*{reason}"):
        read_sharded(folder)


def test_the_tensors_of_a_sharded_folder_claim_no_more_than_they_hold(tmp_path: Path) -> None:
    """torch's own reader, which resumes, reads them by `weights_only`, which allocates what they claim."""
    folder = sharded(tmp_path / "run.ckpt")
    require_safe(folder)
    crafted = claims.zipped(tmp_path / "crafted", Tensor(Storage(4), (MANY,), (1,)), {"data/0": HELD}).read_bytes()
    (folder / "more.distcp").write_bytes(crafted)

    def elsewhere(metadata: Any) -> None:
        at = next(at for index, at in metadata.storage_data.items() if index.fqn == "state_dict.weight")
        at.relative_path, at.offset, at.length = "more.distcp", 0, len(crafted)

    change(folder, elsewhere)
    for reader in (require_safe, read_sharded):
        with pytest.raises(ValueError, match="claims 1073741824 bytes, and its storage has 16"):
            reader(folder)
    (folder / "more.distcp").unlink()
    (folder / "more.distcp").symlink_to("/dev/zero")
    for reader in (require_safe, read_sharded):
        with pytest.raises(ValueError, match=r"'more\.distcp', which is no file of the folder"):
            reader(folder)


def test_a_manifest_names_files_of_its_folder_only(tmp_path: Path) -> None:
    (tmp_path / "run.ckpt").mkdir()
    (tmp_path / "run.ckpt/zero").symlink_to("/dev/zero")
    (tmp_path / "outside").write_text("")
    for name in ("zero", "../outside", str(tmp_path / "outside")):
        (tmp_path / "run.ckpt" / MANIFEST).write_text(json.dumps({name: [0, 0]}))
        assert not is_complete_folder(tmp_path / "run.ckpt")


def test_parameters_of_deepspeed_claim_no_more_than_the_files_hold(tmp_path: Path) -> None:
    folder = tmp_path / "run.ckpt"
    (folder / "step").mkdir(parents=True)
    (folder / "latest").write_text("step")
    shapes = [{f"weight{number}": torch.Size([2**20]) for number in range(100)}]
    model = {"dp_world_size": 1, "param_shapes": shapes, "frozen_param_shapes": None, "module": {}}
    torch.save(model, folder / "step/mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": {}}, folder / "step/zero_pp_rank_0_optim_states.pt")
    with pytest.raises(ValueError, match="its parameters claim 209715200 bytes or more, and its files have"):
        read_zero(folder)
