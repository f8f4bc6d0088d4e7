"""Tools that generate: a film from words by LaVie, and an object or a film changed by words by diffusers."""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from datamodules.decoding.contract import Video
from pretrain.assistant.inpainting import grown
from pretrain.assistant.tools.cutting import known_masks, write_frames
from pretrain.assistant.tools.tool import Arguments, Context, Made, Tool, film_of, object_of, step, track_id
from pretrain.generation.cascade import Cascade
from pretrain.generation.settings import Request


class Editor(Protocol):
    """Changes single frames by words."""

    def replace(self, rgb: np.ndarray, mask: np.ndarray, prompt: str) -> np.ndarray:
        """A frame uint8 `[H, W, 3]` with what a mask bool `[H, W]` covers made anew."""
        ...

    def edit(self, rgb: np.ndarray, prompt: str) -> np.ndarray:
        """A whole frame, changed."""
        ...


class DiffusersEditor:
    """An inpainting pipeline of diffusers, by the same noise in every frame.

    Args:
        folder: of the pipeline; its network takes the mask (nine channels in) or not (four).
        steps: of sampling. strength: how far `edit` goes from the frame, 0 to 1. seed: of the noise.
        device: "cpu", "cuda", ...

    Raises:
        OSError: the folder holds no pipeline.
    """

    def __init__(
        self, folder: Path, steps: int = 30, strength: float = 0.6, seed: int = 0, device: str = "cpu"
    ) -> None:
        import diffusers

        makers: Any = diffusers  # its names are resolved when they are used
        pipeline = makers.AutoPipelineForInpainting.from_pretrained(
            folder, local_files_only=True, safety_checker=None, requires_safety_checker=False
        )
        self.pipeline: Any = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.steps, self.strength, self.seed = steps, strength, seed

    def replace(self, rgb: np.ndarray, mask: np.ndarray, prompt: str) -> np.ndarray:
        return np.where(mask[..., None], self._run(rgb, mask, prompt, 1.0), rgb)

    def edit(self, rgb: np.ndarray, prompt: str) -> np.ndarray:
        return self._run(rgb, np.ones(rgb.shape[:2], bool), prompt, self.strength)

    def _run(self, rgb: np.ndarray, mask: np.ndarray, prompt: str, strength: float) -> np.ndarray:
        """A frame whose masked part is made anew from noise of this strength."""
        import torch
        from PIL import Image

        height, width = rgb.shape[:2]
        size = (max(8, width // 8 * 8), max(8, height // 8 * 8))  # the autoencoder halves sides three times
        pictures = {
            "image": Image.fromarray(rgb).resize(size),
            "mask_image": Image.fromarray(mask * np.uint8(255)).resize(size),
            **{"width": size[0], "height": size[1]},
        }
        noise = torch.Generator("cpu").manual_seed(self.seed)
        how = {"num_inference_steps": self.steps, "strength": strength, "generator": noise}
        return np.asarray(self.pipeline(prompt=prompt, **pictures, **how).images[0].resize((width, height)))


class GenerateArguments(Arguments):
    """What the film shows."""

    prompt: str = Field(min_length=1, max_length=1000)
    seed: int = 0


_alone = threading.Lock()  # sessions share the networks, which work for one at a time


def generate_film(context: Context, a: GenerateArguments, cascade: Cascade, settings: dict[str, Any]) -> Made:
    """A film of LaVie. It cannot be cancelled on its way."""

    def write(path: Path) -> None:
        with _alone, tempfile.TemporaryDirectory(dir=path.parent) as folder:
            film = Path(folder) / "film.mp4"
            cascade.film(Request(a.prompt, a.seed, **settings), film)
            shutil.move(film, path)

    made = context.session.add("film", ".mp4", write, tool="generate_film", about=a.prompt[:80])
    return Made(f"Made {made.id}: {a.prompt[:80]}.", (made,))


class ReplaceArguments(Arguments):
    """An object, and what takes its place."""

    object: str = Field(description="id of the object")
    prompt: str = Field(min_length=1, max_length=1000, description="what takes its place")


def replace(context: Context, a: ReplaceArguments, editor: Editor) -> Made:
    """The film with an object made anew."""
    film, each = film_of(context), object_of(context, a.object)
    known_masks(context, film, a.object)

    def frames(video: Video) -> Iterator[np.ndarray]:
        masks = context.mask_frames(a.object)
        for index, get in enumerate(video.stream()):
            step(context, index, film.frames)
            mask = grown(next(masks)[1])
            yield editor.replace(get(), mask, a.prompt) if mask.any() else get()

    about = {"parents": (film.artefact, track_id(context, a.object)), "tool": "replace", "object_id": a.object}
    return _write(context, frames, f"{each.name} became {a.prompt[:60]}", about)


class EditArguments(Arguments):
    """How the film is changed."""

    prompt: str = Field(min_length=1, max_length=1000, description="what the film shows afterwards")


def edit(context: Context, a: EditArguments, editor: Editor) -> Made:
    """The film with every frame changed."""
    film = film_of(context)

    def frames(video: Video) -> Iterator[np.ndarray]:
        for index, get in enumerate(video.stream()):
            step(context, index, film.frames)
            yield editor.edit(get(), a.prompt)

    about = {"parents": (film.artefact,), "tool": "edit", "object_id": None}
    return _write(context, frames, f"{film.name} as {a.prompt[:60]}", about)


def _write(context: Context, frames, text: str, about: dict[str, Any]) -> Made:
    film = film_of(context)

    def write(path: Path) -> None:
        with _alone, context.open() as video:
            write_frames(path, frames(video), film.size, film.fps)

    made = context.session.add("film", ".mp4", write, about=text, **about)
    return Made(f"Made {made.id}: {text}.", (made,))


def tools(
    cascade: Cascade | None = None, settings: dict[str, Any] | None = None, editor: Editor | None = None
) -> tuple[Tool, ...]:
    """The tools of this file.

    Args:
        cascade: LaVie's networks.
        settings: of its `Request`, such as stages and sizes.
        editor: of frames.
    """
    no_words = "There are no weights that generate films: start the assistant with LaVie's (see tools/generate.py)."
    no_editor = "There are no weights that change pictures: start the assistant with an inpainting folder of diffusers."
    return (
        Tool(
            "generate_film",
            "Generates a new film from words.",
            GenerateArguments,
            lambda context, a: generate_film(context, a, cascade, settings or {}),  # pyrefly: ignore
            ("film",),
            "" if cascade is not None else no_words,
        ),
        Tool(
            "replace",
            "Replaces an object in the film by something else.",
            ReplaceArguments,
            lambda context, a: replace(context, a, editor),  # pyrefly: ignore
            ("film",),
            "" if editor is not None else no_editor,
        ),
        Tool(
            "edit",
            "Changes the look of the whole film by words.",
            EditArguments,
            lambda context, a: edit(context, a, editor),  # pyrefly: ignore
            ("film",),
            "" if editor is not None else no_editor,
        ),
    )
