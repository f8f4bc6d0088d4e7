"""Features, search and surveys of shards carry the names of the videos, not of members of a tar."""

from pathlib import Path

import torch

from datamodules.clips.crops import CentreCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding.reader import PyAV
from datamodules.loading.batches import EvalBatches
from datamodules.loading.clip import Clip
from datamodules.loading.survey import Survey
from datamodules.making.encoding import Encoding
from datamodules.making.prepare import prepare
from datamodules.sources.shards import Shards
from pretrain.features.search import Viewer, search
from pretrain.features.videos import VideoFeatureWriter, read_features
from tests.helpers.videos import make

NAMES = ["a b.mp4", "sub/影片.mp4", "z.mp4"]


def test_features_and_search_name_the_videos(tmp_path: Path) -> None:
    (tmp_path / "videos/sub").mkdir(parents=True)
    for name in NAMES:
        make(tmp_path / "videos" / name, frames=8)
    prepare(str(tmp_path / "videos"), str(tmp_path / "shards"), workers=1, progress=False)
    source = Shards(str(tmp_path / "shards"))
    clip = Clip(2, 1, 16, 1, 0.0, Dense(), CentreCrop(), PyAV())
    batch = EvalBatches(source, clip, 1, 1, 0, 1, 4)[0]  # a row more than there are videos
    assert batch["name"][0] == "shard-000000.tar/000000000000" and batch["origin"][:3] == NAMES

    writer = VideoFeatureWriter(tmp_path / "index", 100, None, {})
    writer.rank, writer.world_size = 0, 1
    writer.add(batch["name"][:3], {"features": torch.eye(3)}, batch)
    writer.close()
    (file,) = (tmp_path / "index").glob("*.safetensors")
    assert read_features(file)[0] == NAMES
    hits = search([file], torch.eye(3), 1)
    assert [hit.name for (hit,) in hits] == NAMES

    viewer = object.__new__(Viewer)
    viewer.folder, viewer.source, viewer.decoder = str(tmp_path), source, PyAV()
    viewer.frames, viewer.stride, viewer.sampler = 2, 1, Dense()
    for (hit,) in hits:
        viewer.load_frames(hit)
        assert hit.frames and not hit.error

    survey = Survey(source, PyAV(), 0, 1, lambda name: name == NAMES[1])
    found = [survey[k]["found"] for k in range(3)]
    assert [video.name for video in found] == NAMES and [video.done for video in found] == [False, True, False]


def test_parts_of_a_video_have_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    make(tmp_path / "videos/long.mp4", frames=72)
    prepare(str(tmp_path / "videos"), str(tmp_path / "out"), Encoding(clip_seconds=1.0), workers=1, progress=False)
    source = Shards(str(tmp_path / "out"))
    assert [source[k].origin for k in range(3)] == ["long.mp4", "long.mp4#t=1,2", "long.mp4#t=2,3"]
