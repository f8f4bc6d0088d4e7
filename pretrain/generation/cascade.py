"""The cascade: base, interpolation and super-resolution of one film after another; a killed run goes on."""

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from datamodules.storage.lock import lock_file
from pretrain.generation.film_file import write_film
from pretrain.generation.pieces import FrameSource, Pieces, VideoFile
from pretrain.generation.record import (
    make_record,
    read_record,
    record_path,
    require_same_files,
    same_film,
    write_record,
)
from pretrain.generation.sampling import sample
from pretrain.generation.settings import BASE_FPS, FACTOR, INTERPOLATED_FPS, Request
from pretrain.generation.streaming import (
    interpolation_condition,
    interpolation_windows,
    stream,
    vsr_condition,
    vsr_windows,
)
from pretrain.generation.weights import Networks, find, fingerprints, load
from pretrain.plots.contact_sheet import contact_sheet, write_png

log = logging.getLogger(__name__)

_SHEET_HEIGHT, _SHEET_FRAMES = 160, 6  # of the contact sheet: pixels of a frame, and frames of a stage


class Cascade:
    """Generates films; each stage's networks are read at their first use.

    Args:
        weights: folder of weights or what stands for one, see `pretrain.generation.weights.find`.
        stages: that any film needs; their files are looked for at once.
        device, dtype: of the networks. VAE and text encoder stay in float32.
        tile: side of the VAE's tiles in pixels; 0: whole frames.
        progress: show a bar for each stage.
    """

    def __init__(
        self,
        weights: str | Path,
        stages: tuple[str, ...],
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        tile: int = 512,
        progress: bool = True,
    ) -> None:
        self.weights, self.places = weights, find(weights, stages)
        self.device, self.dtype, self.tile, self.progress = torch.device(device), dtype, tile, progress
        self.networks: dict[str, Networks] = {}
        self.sums: dict[str, dict[str, str]] = {}

    def film(self, request: Request, film: Path, repeats: Path | None = None) -> bool:
        """Generate `film`, a contact sheet (.png) and the record (.json) beside it.

        Finished stages and windows of a killed run lie in a hidden folder beside the film, and are not done again.

        Args:
            repeats: the record of a film that this one repeats.

        Returns:
            Whether anything was done: a film that is finished already is left as it is.

        Raises:
            FileExistsError: another film stands there.
            ValueError: the request does not suit the networks, or they are not those of the repeated film.
        """
        sums = {stage: self._sums(stage) for stage in request.stages}
        record = make_record(request, sums, str(self.dtype).removeprefix("torch."), self.tile)
        if repeats is not None:
            require_same_files(read_record(repeats), record, str(repeats))
        with lock_file(film):
            if film.exists() or record_path(film).exists():
                if _is_finished(film, record):
                    return False
                raise FileExistsError(f"{film} is another film already: name another file, or remove it and its json")
            parts = film.with_name(f".{film.name}.parts")
            _open_parts(parts, record)
            clips, seconds = self._run(request, parts)
            last = clips[request.stages[-1]]
            write_png(film.with_suffix(".png"), _sheet(clips, request.prompt))
            frames = write_film(film, _frames(last), last.size, last.fps)
            about = {"frames": frames, "height": last.size[0], "width": last.size[1], "fps": last.fps}
            write_record(
                record_path(film), {**record, "film": about, "device": self._device_name(), "seconds": seconds}
            )
            shutil.rmtree(parts)
        return True

    def _run(self, request: Request, parts: Path) -> tuple[dict[str, FrameSource], dict[str, float]]:
        """The clips of all stages, and the seconds that each took in this process."""
        clips: dict[str, FrameSource] = {}
        seconds: dict[str, float] = {}
        source: FrameSource | None = VideoFile(request.source) if request.source else None
        for number, stage in enumerate(request.stages, start=1):
            start = time.monotonic()
            title = f"{stage} ({number} of {len(request.stages)})"
            if source is None:
                source = self._base(request, parts / stage, title)
            else:
                source = self._refine(stage, request, source, parts / stage, title)
            clips[stage] = source
            seconds[stage] = round(time.monotonic() - start, 1)
        return clips, seconds

    def _base(self, request: Request, folder: Path, title: str) -> Pieces:
        """The base's clip, one piece."""
        pieces, settings = Pieces(folder, BASE_FPS), request.settings["base"]
        if pieces.starts:
            return pieces
        networks = self._load("base")
        size = networks.codec.latent_size(request.height, request.width)
        with self._bar(settings.steps, title) as bar:
            latents = sample(
                networks,
                "base",
                settings,
                request.seed,
                range(request.frames),
                size,
                request.prompt,
                on_step=lambda: bar.update(1),
            )
            pieces.add(0, networks.codec.decode(latents))
        return pieces

    def _refine(self, stage: str, request: Request, source: FrameSource, folder: Path, title: str) -> Pieces:
        """The clip of interpolation or super-resolution, in windows."""
        settings, networks = request.settings[stage], self._load(stage)
        if stage == "interpolation":
            fps = INTERPOLATED_FPS if request.source is None else source.fps * FACTOR
            size, layout = networks.codec.latent_size(*source.size), interpolation_windows(len(source), settings)
            condition = interpolation_condition(networks, source)
        else:
            fps, size, layout = source.fps, source.size, vsr_windows(len(source), settings)
            condition = vsr_condition(networks, source, settings, request.seed)
        pieces = Pieces(folder, fps)
        with self._bar(settings.steps * len(layout), title) as bar:
            stream(stage, networks, settings, request.seed, size, request.prompt, layout, condition, pieces, bar.update)
        return pieces

    def _bar(self, steps: int, title: str) -> tqdm:
        return tqdm(total=steps, desc=title, unit="step", disable=not self.progress)

    def _load(self, stage: str) -> Networks:
        """The stage's networks on the device; those of the others wait on the CPU."""
        if stage not in self.networks:
            self.networks[stage] = load(stage, self.places[stage], self.tile)
        if self.device.type != "cpu":
            for other, networks in self.networks.items():
                if other != stage:
                    networks.to(torch.device("cpu"), self.dtype)
        return self.networks[stage].to(self.device, self.dtype)

    def _sums(self, stage: str) -> dict[str, str]:
        if stage not in self.sums:
            self.sums[stage] = fingerprints(self.places[stage], self.weights)
        return self.sums[stage]

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type


def _is_finished(film: Path, record: dict[str, Any]) -> bool:
    place = record_path(film)
    return film.exists() and place.exists() and same_film(read_record(place), record)


def _open_parts(parts: Path, record: dict[str, Any]) -> None:
    """Make the folder of a film's finished parts; parts of another film are removed, with a word."""
    place = parts / "film.json"
    if place.exists() and not _is_of(place, record):
        log.warning("%s holds parts of a film with other settings: they are removed", parts)
        shutil.rmtree(parts)
    if not place.exists():
        write_record(place, record)


def _is_of(place: Path, record: dict[str, Any]) -> bool:
    try:
        return same_film(read_record(place), record)
    except ValueError as error:
        log.warning("%s", error)
        return False


def _frames(source: FrameSource) -> Iterator[np.ndarray]:
    for start in range(len(source)):
        yield source.read(start, start + 1)[0].numpy()


def _sheet(clips: dict[str, FrameSource], title: str) -> np.ndarray:
    """A row for each stage, all frames at one size."""
    videos, size = {}, None
    for stage, source in clips.items():
        height, width = source.size
        size = size or (_SHEET_HEIGHT, max(1, round(width * _SHEET_HEIGHT / height)))
        numbers = torch.linspace(0, len(source) - 1, _SHEET_FRAMES).round().long().tolist()
        frames = torch.cat([source.read(i, i + 1) for i in numbers]).permute(0, 3, 1, 2).float() / 255
        videos[stage] = F.interpolate(frames, size, mode="area").transpose(0, 1)[None]
    return contact_sheet(videos, [title], _SHEET_FRAMES)
