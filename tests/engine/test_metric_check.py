"""What a metric lacks is said before the first step: a class list, captions, labels, or the model's text tower."""

from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.sources.files import Files
from pretrain.engine.metric_check import require_fields
from tests.helpers.methods import METHODS
from tests.helpers.runs import fit
from tests.helpers.videos import make

STOP = ["--trainer.callbacks+=tests.engine.test_logger_versions.FailAtStep", "--trainer.callbacks.step=1"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a.mp4", "b.mp4"):
        make(folder / name, frames=8, width=32)
    (folder / "labels.csv").write_text("path,label\na.mp4,0\nb.mp4,1\n")
    (folder / "captions.csv").write_text("path,text\na.mp4,a dog\nb.mp4,\n")
    return folder


def test_the_first_video_without_a_caption_is_named(videos: Path) -> None:
    source = Files(str(videos / "captions.csv"))
    with pytest.raises(MisconfigurationException, match=r"1 of 2 have none, the first is row 2 \(b\.mp4\)"):
        require_fields("own", ("text",), "data.val", source)
    require_fields("own", ("label",), "data.val", Files(str(videos / "labels.csv")))


def _slow(*values: str | None):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("method", "metric", "place", "words"),
    [
        _slow(
            "viclip",
            "ZeroShot",
            ".",
            r"the metric own reads a `label` of each video of data\.val, and 2 of 2 have none",
        ),
        (
            "viclip",
            "ZeroShot",
            "labels.csv",
            r"does not know the names of the classes.*give the metric `classes`",
        ),
        _slow("viclip", "Retrieval", "captions.csv", r"reads a `text` .* 1 of 2 have none"),
        _slow("videomae", "Retrieval", None, r"Retrieval needs a model with `encode_text`"),
    ],
)
def test_it_is_said_before_the_first_step(
    method: str, metric: str, place: str | None, words: str, videos: Path, tmp_path: Path
) -> None:
    data = ["--data.val=Files", f"--data.val.path={videos / place}"] if place else []
    own = f"--model.metrics={{own: {{class_path: pretrain.metrics.{metric}}}}}"
    with pytest.raises(Exception, match=words):
        fit(tmp_path, METHODS[method], own, *data, *STOP)
