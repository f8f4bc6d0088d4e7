"""Tools that recognise: the action in a film, by a trained classifier; and videos of one's own, by an index."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from datamodules.clips.chat_sampling import demo_centres
from datamodules.clips.eval_views import BicubicSquare
from datamodules.clips.frame_by_frame import scaled_frames
from pretrain.assistant.tools.tool import Arguments, Context, Made, Tool, film_of
from pretrain.export.load_run import load_objective
from pretrain.features.index import read_index
from pretrain.features.search import search, text_model
from pretrain.objectives import Classify


@dataclass(frozen=True)
class Recogniser:
    """A trained classifier of videos. classes: their names, in order."""

    objective: Classify
    classes: tuple[str, ...]

    def picture(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 `[T, H, W, 3]` in the size that the classifier takes, `[T, size, size, 3]`."""
        return BicubicSquare()(frames, self.objective.model.encoder.size)

    @torch.inference_mode()
    def __call__(self, clip: np.ndarray) -> np.ndarray:
        """Probabilities of the classes, float `[K]`, of a clip uint8 `[T, size, size, 3]`."""
        video = torch.from_numpy(clip).permute(3, 0, 1, 2)[None]  # [1, C, T, H, W]
        video = video.to(next(self.objective.parameters()).device)
        scores = self.objective.predict({"video": video, "label": torch.zeros(1, dtype=torch.long)})["scores"][
            0
        ].float()
        return (scores.sigmoid() if self.objective.multi_label else scores.softmax(0)).cpu().numpy()


def load_recogniser(path: str, device: str = "cpu") -> Recogniser:
    """A classifier of a run or a checkpoint of ours.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or of another method.
    """
    objective, _ = load_objective(path)
    if not isinstance(objective, Classify):
        raise ValueError(
            f"{path} is of {type(objective).__name__}, which recognises no classes: give a fine-tuned model"
        )
    names = objective.names or [f"class {number}" for number in range(objective.model.classes)]
    return Recogniser(objective.to(device), tuple(names))


class ActionArguments(Arguments):
    """What is looked at."""

    film: str | None = Field(None, description="artefact; the loaded film if left out")
    most: int = Field(3, ge=1, le=10, description="how many classes are told")


def recognise_action(context: Context, a: ActionArguments, recogniser: Recogniser) -> Made:
    """The likeliest classes of a film."""
    frames = recogniser.objective.model.encoder.frames
    with context.open(a.film or film_of(context).artefact) as video:
        shares = recogniser(scaled_frames(video, demo_centres(len(video), frames), recogniser.picture))
    best = np.argsort(-shares)[: a.most]
    return Made("This looks like: " + ", ".join(f"{recogniser.classes[i]} ({shares[i]:.0%})" for i in best) + ".")


class SearchArguments(Arguments):
    """What is searched for."""

    words: str = Field(min_length=1, max_length=300)
    most: int = Field(5, ge=1, le=50, description="how many videos are told")


Finder = Callable[[str, int], list[tuple[float, str]]]  # words, most: scores and names


def load_finder(folder: Path, checkpoint: str | None = None) -> Finder:
    """A search in the index of a folder of videos; see `pretrain.features.index.read_index` for what it raises."""
    index: dict[str, Any] = read_index(folder)
    model = text_model(index, checkpoint)

    def find(words: str, most: int) -> list[tuple[float, str]]:
        (hits,) = search(index["files"], model.encode_text([words]).float().cpu(), most)
        return [(hit.score, hit.name) for hit in hits]

    return find


def search_videos(context: Context, a: SearchArguments, finder: Finder) -> Made:
    """The names of videos that suit words best, as a table."""
    rows = finder(a.words, a.most)
    if not rows:
        return Made("The index holds no video.")
    text = "".join(f"{score:.4f},{_quoted(name)}\n" for score, name in rows)
    made = context.session.add(
        "table",
        ".csv",
        lambda path: path.write_text("score,video\n" + text, encoding="utf-8", errors="surrogateescape"),
        tool="search_videos",
        about=f"videos for {a.words!r}",
    )
    return Made("Most similar: " + ", ".join(f"{name} ({score:.2f})" for score, name in rows) + ".", (made,))


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def tools(recogniser: Recogniser | None = None, finder: Finder | None = None) -> tuple[Tool, ...]:
    """The tools of this file."""
    no_classes = "There is no classifier of actions: start the assistant with the run of a fine-tuned model."
    no_index = "There is no index of your videos: start the assistant with one (see tools/search.py)."
    return (
        Tool(
            "recognise_action",
            "Tells which action the film shows, of the classes of a trained classifier.",
            ActionArguments,
            lambda context, a: recognise_action(context, a, recogniser),  # pyrefly: ignore
            (),
            "" if recogniser is not None else no_classes,
        ),
        Tool(
            "search_videos",
            "Searches the user's own videos by words.",
            SearchArguments,
            lambda context, a: search_videos(context, a, finder),  # pyrefly: ignore
            ("table",),
            "" if finder is not None else no_index,
        ),
    )
