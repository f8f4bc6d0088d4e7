"""Search: `predict` writes an index, texts find its videos with the right frames, and missing files are named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image
from safetensors.torch import save_file

from datamodules.clips.sampling import Sparse
from datamodules.decoding.reader import PyAV
from datamodules.sources.files import Files
from datamodules.storage.lock import InUse
from pretrain.cli import main
from pretrain.export.load_run import load_objective
from pretrain.features.index import read_index
from pretrain.features.search import Hit, Viewer, search
from pretrain.features.videos import read_features, select
from tests.helpers.locks import hold
from tests.helpers.methods import METHODS
from tests.helpers.runs import ROOT, arguments, fit, run
from tests.helpers.videos import make, number, two_rates
from tools.search import main as tool

RECIPE = ["-c", str(ROOT / "recipes/viclip_tiny.yaml")]
NAMES = ["a b.mp4", "c.mp4", "sub/ключ.mp4", "影片.mp4", "z.mp4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("viclip"), RECIPE, "--trainer.max_steps=2", "--trainer.val_check_interval=2")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos, and two files that are not videos, in a folder whose name has spaces and accents."""
    folder = tmp_path_factory.mktemp("my vidéos")
    (folder / "sub").mkdir()
    for i, name in enumerate(NAMES):
        make(folder / name, frames=90 + 40 * i, width=80 + 16 * i)
    for name in ("broken.mp4", "sub/also broken.mp4"):
        (folder / name).write_text("not a video")
    return folder


def predict(run_folder: Path, folder: Path, videos: Path, *more: str, command=main) -> Path:
    source = ["--data.init_args.predict=Files", f"--data.init_args.predict.init_args.path={videos}"]
    checkpoint = f"--ckpt_path={run_folder / 'checkpoints/step=0000002.ckpt'}"
    clip = ["--data.init_args.stride=3", "--data.init_args.sampler=Dense"]
    command(["predict", *arguments(folder, RECIPE, checkpoint, *source, *clip, *more)[1:]])
    return folder / "run" / "features"


@pytest.fixture(scope="module")
def index(trained: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predict(
        trained, tmp_path_factory.mktemp("index"), videos, "--features.rows=2", "--data.init_args.micro_batch=2"
    )


def test_times_of_hits_are_those_of_their_frames(tmp_path: Path) -> None:
    two_rates(tmp_path / "v.mkv")
    viewer = object.__new__(Viewer)  # as read from an index
    viewer.folder, viewer.source, viewer.decoder = tmp_path, Files(str(tmp_path)), PyAV()
    viewer.sampler, viewer.frames, viewer.stride = Sparse(), 6, 1
    hit = Hit(1.0, "v.mkv", 0, 0, 1)
    viewer.load_frames(hit)
    assert hit.time == "0:00.2-0:10.0 of 0:11.7" and [number(frame) for frame in hit.frames] == [6, 32, 71]


def test_texts_find_videos(index: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert len(read_index(index)["files"]) > 1
    out = tmp_path / "deep" / "sheet.png"
    assert tool(["a red circle", "😀 кот", "--index", str(index), "--top", "4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    names, features = [], []
    for file in read_index(index)["files"]:
        some, tensors = read_features(file)
        names, features = names + some, [*features, tensors["features"]]
    model, _ = load_objective(str(trained))
    blocks = printed.split("\n\n")
    for query, block in zip(["a red circle", "😀 кот"], blocks, strict=False):
        scores = (torch.from_numpy(np.concatenate(features)) @ model.encode_text([query]).t())[:, 0]
        order = scores.argsort(descending=True)[:4].tolist()
        first, *lines = block.splitlines()
        assert first == query and len(lines) == 4
        for line, i in zip(lines, order, strict=True):
            assert line.endswith(names[i]) and f"{scores[i]:.4f}" in line and " of 0:" in line
    assert Image.open(out).width > 400


def test_frames_are_those_that_the_model_saw(index: Path, videos: Path) -> None:
    from datamodules.clips.sampling import Dense
    from datamodules.decoding.reader import PyAV

    viewer = Viewer(read_index(index))
    for row, name in enumerate(NAMES):  # with two unreadable files between them
        hit = Hit(0.0, name, row, 0, 1)
        viewer.load_frames(hit)
        assert not hit.error
        with PyAV().open(str(videos / name)) as video:
            seen = Dense().view(len(video), 8, 3)
            assert np.array_equal(hit.frames[-1], video.frames(seen[-1:])[0])
    gone = Hit(0.0, "other.mp4", 0, 0, 1)
    viewer.load_frames(gone)
    assert "not in the list" in gone.error


@pytest.mark.slow
def test_two_ranks_write_one_index(trained: Path, videos: Path, index: Path, tmp_path: Path) -> None:
    spread = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    both = predict(trained, tmp_path, videos, *spread, command=run)
    model = load_objective(str(trained))[0]
    query = model.encode_text(["a blue square moves left"])
    one, two = (search(read_index(folder)["files"], query, 5)[0] for folder in (index, both))
    assert [hit.name for hit in one] == [hit.name for hit in two]
    torch.testing.assert_close(torch.tensor([h.score for h in one]), torch.tensor([h.score for h in two]))
    viewer = Viewer(read_index(both))
    for hit in two:
        viewer.load_frames(hit)
        assert hit.frames and not hit.error


def test_files_are_searched_in_order(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    files, rows = [], torch.randint(-2, 3, (50, 6), generator=generator).float()  # many are equal
    for i, part in enumerate(rows.split([20, 1, 29])):
        files.append(tmp_path / f"features-{i:05d}.safetensors")
        before = sum(len(r) for r in rows.split([20, 1, 29])[:i])
        names = [str(before + j) for j in range(len(part))]
        place = {"rank": 0, "world": 1, "before": before}
        save_file({"features": part.clone()}, files[-1], {"names": json.dumps(names), "place": json.dumps(place)})
    queries = torch.randint(-2, 3, (4, 6), generator=generator).float()
    expected = (queries @ rows.t()).sort(dim=1, descending=True, stable=True).indices[:, :7]
    found = search(files, queries, 7)
    assert [[int(hit.name) for hit in hits] for hits in found] == expected.tolist()
    assert [[hit.row for hit in hits] for hits in found] == expected.tolist()
    with pytest.raises(ValueError, match=r"holds features \(6,\) a video, and a text has 5"):
        search(files, queries[:, :5], 7)


def test_missing_videos_are_named(index: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    moved = tmp_path / "index"
    shutil.copytree(index, moved)
    about = json.loads((moved / "index.json").read_text())
    some = tmp_path / "videos"
    shutil.copytree(videos, some)
    (some / "z.mp4").write_text("cut")
    about["source"]["init_args"]["path"] = str(some)
    (moved / "index.json").write_text(json.dumps(about))
    out = tmp_path / "sheet.png"
    assert tool(["a dog", "--index", str(moved), "--out", str(out)]) == 1
    assert "unreadable z.mp4: " in capsys.readouterr().err and out.exists()
    shutil.rmtree(some)
    assert tool(["a dog", "--index", str(moved), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "no list or folder of videos" in said.err and "a b.mp4" in said.out


def test_errors_name_the_cause(index: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def error(*more: str, folder: Path = index) -> str:
        assert tool(["a dog", "--index", str(folder), *more]) == 2
        return capsys.readouterr().err

    assert "no index in" in error(folder=tmp_path) and "predict" in error(folder=tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(index, moved)
    about = json.loads((moved / "index.json").read_text())
    (moved / "index.json").write_text(json.dumps({**about, "checkpoint": str(tmp_path / "gone.ckpt")}))
    assert "gone.ckpt, is not there: say where it is by --ckpt" in error(folder=moved)
    assert tool(["a dog", "--index", str(moved), "--ckpt", str(trained)]) == 0
    other = fit(tmp_path, RECIPE, "--trainer.max_steps=1", "--seed_everything=7")
    assert "not the checkpoint that the index was made with" in error("--ckpt", str(other))
    (moved / "index.json").unlink()
    assert "holds features but no index.json" in error(folder=moved)
    (moved / "index.json").write_text(json.dumps({**about, "probe": None}))
    assert "is of a model without a text encoder (ViCLIP)" in error(folder=moved)
    with pytest.raises(SystemExit):
        tool([" ", "--index", str(index)])
    assert "a query is empty" in capsys.readouterr().err


def test_an_index_of_official_weights(trained: Path, videos: Path, tmp_path: Path, capsys) -> None:
    """Without a run and a checkpoint the index names the weights; and a run folder can be moved."""
    main(["export", f"--ckpt={trained}", "--to=official", f"--out={tmp_path / 'out'}"])
    source = ["--data.init_args.predict=Files", f"--data.init_args.predict.init_args.path={videos}"]
    weights = f"--model.init_args.weights={tmp_path / 'out' / 'checkpoint.pth'}"
    (tmp_path / "run").mkdir()
    main(["predict", *arguments(tmp_path, RECIPE, weights, *source)[1:]])
    assert tool(["a red circle", "--index", str(tmp_path / "run/features"), "--top", "2"]) == 0
    main(["predict", *arguments(tmp_path / "bare", RECIPE, *source, "--allow_untrained=true")[1:]])
    capsys.readouterr()
    assert tool(["a red circle", "--index", str(tmp_path / "bare/run/features")]) == 2
    assert "as it was initialised" in capsys.readouterr().err

    away = tmp_path / "away"
    shutil.copytree(trained / "checkpoints", away / "checkpoints")
    predict_from = [
        "predict",
        *arguments(away.parent, RECIPE, *source)[1:],
        "--features.folder",
        str(away / "features"),
    ]
    main([*predict_from, f"--ckpt_path={away / 'checkpoints/step=0000002.ckpt'}"])
    away.rename(tmp_path / "moved")
    assert tool(["a red circle", "--index", str(tmp_path / "moved/features")]) == 0


def test_an_index_is_never_mixed_with_another(trained: Path, videos: Path, index: Path, tmp_path: Path) -> None:
    mine = predict(trained, tmp_path, videos, "--features.rows=1", "--data.init_args.micro_batch=1")
    assert len(list(mine.glob("*.safetensors"))) == 5
    predict(
        trained, tmp_path, videos, "--features.rows=3", "--data.init_args.micro_batch=1"
    )  # an equal index replaces it
    assert len(list(mine.glob("*.safetensors"))) == 2
    with pytest.raises(MisconfigurationException, match="holds features already, of another model, of other videos"):
        predict(trained, tmp_path, videos / "sub")
    mode = (mine / "features-00000.safetensors").stat().st_mode & 0o777
    assert mode == (mine / "index.json").stat().st_mode & 0o777  # of the umask, not safetensors' 0600


def test_predict_is_refused_where_another_writes_there(trained: Path, videos: Path, tmp_path: Path) -> None:
    features = predict(trained, tmp_path, videos)
    before = {file.name: file.stat().st_mtime_ns for file in features.iterdir()}
    holder = hold(features / ".lock")
    with pytest.raises(InUse, match=f"is in use by process {holder.pid} on "):
        predict(trained, tmp_path, videos)
    holder.kill()
    holder.wait()
    assert before.items() <= {file.name: file.stat().st_mtime_ns for file in features.iterdir()}.items()


def test_features_of_a_model_without_texts_are_no_index(tmp_path: Path, videos: Path) -> None:
    source = ["--data.init_args.predict=Files", f"--data.init_args.predict.init_args.path={videos}"]
    main(["predict", *arguments(tmp_path, METHODS["videomae"], *source, "--allow_untrained=true")[1:]])
    with pytest.raises(ValueError, match=r"a model without a text encoder \(VideoMAE\)"):
        read_index(tmp_path / "run" / "features")


def test_tokens_are_written_only_on_request() -> None:
    made = {"features": torch.zeros(1, 2), "tokens": torch.zeros(1, 9, 2)}
    assert list(select(made, None)) == ["features"]
    assert list(select(made, ["tokens"])) == ["tokens"]
    with pytest.raises(MisconfigurationException, match=r"names 'peaks', and the model predicts features, tokens"):
        select(made, ["peaks"])
