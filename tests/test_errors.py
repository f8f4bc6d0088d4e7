"""Every command ends an expected failure with one sentence and a non-zero code; `--debug` shows the traceback."""

import ast
import errno
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError

from datamodules.decoding.contract import DecodeError
from pretrain.cli import main
from pretrain.errors import FAILED, UNREAD, is_expected, reports_errors, sentence
from pretrain.parser import Parser
from tests.helpers.paths import ROOT, TESTS
from tests.helpers.videos import make

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))
RUN = TESTS / "legacy/videomae/checkpoints/step=0000004.ckpt"
TINY = ["-c", str(ROOT / "recipes/videomae_tiny.yaml")]


def run(words: list[str]) -> int:
    """A command of ours (`pretrain ...`, or a tool and its arguments), as the command line would run it."""
    if words[0] == "pretrain":
        return reports_errors(main)(words[1:])
    return import_module(f"tools.{words[0]}").main(words[1:])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that commands fail on."""
    folder = tmp_path_factory.mktemp("failures")
    (folder / "cut.ckpt").write_bytes(RUN.read_bytes()[:-5000])
    (folder / "file").write_text("not a folder")
    (folder / "shards").mkdir()
    (folder / "shards/000000.tar").write_bytes(b"not a tar")
    (folder / "shards/shards.csv").write_text("name,samples\n../000000.tar,many\n")
    (folder / "list.csv").write_text("text\na dog\n")
    (folder / "recipe.yaml").write_text("model: {class_path: [")
    (folder / "videos").mkdir()
    make(folder / "videos/a.mp4", frames=8, width=32)
    index = Path(shutil.copytree(TESTS / "legacy/viclip_index", folder / "index"))
    (index / "index.json").write_text((index / "index.json").read_text()[:-200])
    features = Path(shutil.copytree(TESTS / "legacy/viclip_index", folder / "features"))
    about = (features / "index.json").read_text().replace('"started in": null', f'"started in": "{ROOT}"')
    (features / "index.json").write_text(about)
    (folder / "features/features-00000.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    return folder


# Words of a command, {} stands for the folder above; and a word of the sentence.
FAILURES = {
    "export of a missing checkpoint": ("pretrain export --ckpt={}/none.ckpt --to=official --out={}/out", "none.ckpt"),
    "export of a damaged one": ("pretrain export --ckpt={}/cut.ckpt --to=official --out={}/out", "cut.ckpt"),
    "export into a file": (f"pretrain export --ckpt={RUN} --to=official --out={{}}/file/out", "file"),
    "export to no layout": (f"pretrain export --ckpt={RUN} --to=onnx --out={{}}/out", "onnx"),
    "fit by a damaged recipe": ("pretrain fit -c {}/recipe.yaml", "recipe.yaml"),
    "fit on missing shards": (
        f"pretrain fit {' '.join(TINY)} --data.init_args.train.class_path=Shards "
        "--data.init_args.train.init_args.path={}/none",
        "none",
    ),
    "fit into a file": (
        f"pretrain fit {' '.join(TINY)} --trainer.logger.init_args.save_dir={{}}/file --trainer.accelerator=cpu "
        "--trainer.max_steps=1",
        "file",
    ),
    "plan of an option's wrong value": (f"pretrain plan {' '.join(TINY)} --devices=7", "7"),
    "wise of a damaged checkpoint": (f"wise {RUN} {{}}/cut.ckpt --out {{}}/mixed.ckpt", "cut.ckpt"),
    "wise with a wrong share": (f"wise {RUN} {RUN} --alpha 3 --out {{}}/mixed.ckpt", "alpha"),
    "wise into a file": (f"wise {RUN} {RUN} --out {{}}/file/mixed.ckpt", "file"),
    "search of a damaged index": ("search dog --index {}/index", "index.json"),
    "search of damaged features": (
        f"search dog --index {{}}/features --ckpt {TESTS}/legacy/viclip/checkpoints/step=0000004.ckpt",
        "features-00000.safetensors is cut",
    ),
    "search without a checkpoint": ("search dog --index {}/features --ckpt {}/none.pt", "none.pt"),
    "quality in another's folder": ("quality --out {}/file", "file"),
    "prepare of a list without paths": ("prepare {}/list.csv {}/out", "path"),
    "prepare into a file": ("prepare {}/videos {}/file/out", "file"),
    "index of a missing folder": ("prepare index {}/none", "none"),
    "inspection of crafted shards": ("inspect_shards {}/shards", "shards"),
    "benchmark of nothing": ("benchmark data", "nothing to load"),
    "scenes of a missing folder": ("internvid scenes {}/none {}/scenes.jsonl", "none"),
    "captions by a missing class": (
        "internvid caption {}/list.csv {}/out.jsonl --videos {}/videos --captioner no_such:Class",
        "no_such",
    ),
    "scaling of a missing recipe": ("scaling estimate -c {}/none.yaml", "none.yaml"),
    "vbench of a wrong dimension": ("vbench {}/videos --out {}/out --dimensions none --mode custom", "none"),
    "gpu into a file": ("gpu --device cpu --tiny --out {}/file/out", "file"),
    "assistant of a missing folder": ("assistant --allow {}/none --sessions {}/sessions", "none"),
    "assistant that plans by no model": ("assistant --planner model --sessions {}/sessions", "--model"),
    "demo of a wrong number": ("demo --steps many", "--steps"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_sentence(name: str, place: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    line, word = FAILURES[name]
    words = line.replace("{}/out", f"{tmp_path}/out").replace("{}", str(place)).split()
    try:
        code = run(words)
    except SystemExit as stop:  # of a parser
        code = stop.code
    said = capsys.readouterr().err
    assert code == FAILED and word in said, said[-2000:]
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.partition("error: ")[0] in ("", f"{words[0]}.py: "), said


@pytest.mark.parametrize("more", [[], pytest.param(["--debug"], marks=pytest.mark.slow)], ids=["plain", "debug"])
def test_a_process_ends_with_the_sentence_and_the_code(more: list[str], tmp_path: Path) -> None:
    words = ["-m", "pretrain", "export", f"--ckpt={tmp_path}/none.ckpt", "--to=official", f"--out={tmp_path}/out"]
    done = subprocess.run([sys.executable, *words, *more], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode != 0 and ("Traceback" in done.stderr) == bool(more)
    assert more or (done.stderr == f"error: no checkpoint at {tmp_path}/none.ckpt\n" and done.returncode == FAILED)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_wrong_option_is_named(tool: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run([tool, "--no-such-option"])
    said = capsys.readouterr().err
    assert stop.value.code == FAILED and said.splitlines()[-1].partition(": ")[2].startswith("error: "), said


@pytest.mark.parametrize("tool", TOOLS)
def test_each_tool_reports_by_the_one_wrapper(tool: str) -> None:
    tree = ast.parse((ROOT / f"tools/{tool}.py").read_text())
    (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert [ast.unparse(each) for each in main.decorator_list] == ["reports_errors"]


@contextmanager
def full_disk() -> Iterator[None]:
    """Files of this process end at 64 KB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "to", ["official", "safetensors", pytest.param("transformers", marks=pytest.mark.slow), "wise"]
)
def test_a_full_disk_is_one_sentence(to: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["pretrain", "export", f"--ckpt={RUN}", f"--to={to}", f"--out={tmp_path / 'out'}"]
    with full_disk():
        code = run(words if to != "wise" else ["wise", str(RUN), str(RUN), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    *before, last = said.splitlines()
    assert code == FAILED and last.startswith("error: "), said
    assert to == "transformers" or not before, said  # its progress bar comes before
    assert not list(tmp_path.iterdir())  # nothing half-written


def raising(error: BaseException):
    @reports_errors
    def main(arguments: list[str]) -> int:
        raise error

    return main


EXPECTED = [
    OSError(errno.ENOSPC, "No space left on device", "/runs/a"),
    PermissionError(errno.EACCES, "Permission denied", "/runs/a"),
    ValueError("a\nb"),
    ImportError("no parquet"),
    MisconfigurationException("no length"),
    SafetensorError("cut"),
    DecodeError("film.mp4", "no such file"),
    RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
]


@pytest.mark.parametrize("error", EXPECTED, ids=repr)
def test_expected_failures(error: BaseException, capsys: pytest.CaptureFixture) -> None:
    assert raising(error)([]) == FAILED
    said = capsys.readouterr().err
    assert said == f"error: {sentence(error)}\n" and said.count("\n") == 1
    with pytest.raises(type(error)):
        raising(error)(["--debug"])


def test_mistakes_of_ours_are_not_held_back() -> None:
    for error in (KeyError("a"), TypeError("a"), AssertionError("a"), AttributeError("a"), NotImplementedError("a")):
        assert not is_expected(error)
        with pytest.raises(type(error)):
            raising(error)([])
    with pytest.raises(RuntimeError) as wrong:  # of compiled code
        torch.zeros(2) @ torch.zeros(3)
    assert not is_expected(wrong.value)
    with pytest.raises(RuntimeError) as refused:
        raise RuntimeError("said by us")
    assert is_expected(refused.value)
    with pytest.raises(KeyboardInterrupt):
        raising(KeyboardInterrupt())([])


def test_an_error_of_a_library_says_how_to_see_where(capsys: pytest.CaptureFixture) -> None:
    @reports_errors
    def main(arguments: list[str]) -> int:
        return int(torch.as_tensor([[1, 2], [3]]).sum())

    assert main([]) == FAILED
    assert capsys.readouterr().err.rstrip().endswith("(--debug shows where)")


def test_words_after_two_dashes_are_another_commands(capsys: pytest.CaptureFixture) -> None:
    @reports_errors
    def main(arguments: list[str]) -> int:
        print(arguments)
        return 0

    assert main(["a", "--debug", "--", "--debug"]) == 0
    assert capsys.readouterr().out == "['a', '--', '--debug']\n"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["-m", "pretrain", "fit", "--help"], id="help"),
        pytest.param(
            [
                "-c",
                "import sys; from pretrain.errors import reports_errors\n"
                "main = reports_errors(lambda words: [print(i) for i in range(100_000)] and 0)\nsys.exit(main([]))",
            ],
            id="long",
        ),
    ],
)
def test_a_reader_that_leaves_ends_a_command_in_silence(words: list[str]) -> None:
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # as `| head` does at its last line
    said = process.stderr.read()
    assert process.wait(60) == UNREAD and said == b""


def test_another_pipe_that_breaks_is_an_error(capsys: pytest.CaptureFixture) -> None:
    def breaks(_: list[str]) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe", "a process")

    assert reports_errors(breaks)([]) == FAILED and "Broken pipe: a process" in capsys.readouterr().err


def test_a_tools_wrong_option_is_one_line_with_the_nearest_name(capsys: pytest.CaptureFixture) -> None:
    parser = Parser(prog="tool.py")
    parser.add_argument("--model")
    parser.add_subparsers().add_parser("answers").add_argument("--tokens")
    for words, near in ((["--modle=x"], "--model"), (["answers", "--tokns=3"], "--tokens"), (["--mode=x"], "--model")):
        with pytest.raises(SystemExit) as left:
            parser.parse_args(words)
        option = words[-1].partition("=")[0]
        expected = f"tool.py: error: there is no option {option}: did you mean {near}? (--help lists all options)\n"
        assert (left.value.code, capsys.readouterr().err) == (2, expected)


def test_every_tool_has_that_parser() -> None:
    for tool in sorted((ROOT / "tools").glob("*.py")):
        assert not re.search(r"\bargparse\.ArgumentParser\(", tool.read_text()), tool.name


def test_a_wrong_option_of_plan_is_named_with_the_nearest(capsys: pytest.CaptureFixture) -> None:
    assert run(["pretrain", "plan", "-c", "videomae_tiny", "--devcies=2"]) == 2
    assert capsys.readouterr().err == "error: there is no option --devcies: did you mean --devices?\n"
