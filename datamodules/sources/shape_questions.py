"""Questions and answers about moving shapes, generated on the fly: for tests and the first run of a chat model."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from datamodules.decoding.contract import Video
from datamodules.sources.order import mix
from datamodules.sources.source import Exchange, Sample
from datamodules.sources.synthetic import Synthetic

# Wordings of each question. `familiar` ones are for training; `other` ones ask the same in words for a test.
QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "familiar": {
        "colour": ("what colour is it ?", "which colour is the shape ?", "the colour of the shape is what ?"),
        "shape": ("what shape is it ?", "which shape is in the video ?"),
        "direction": ("where does it move ?", "which direction does the shape move ?", "what direction is it moving ?"),
    },
    "other": {
        "colour": ("what is the colour of the shape ?", "in which colour is it ?"),
        "shape": ("which shape is it ?", "what is the shape in the video ?"),
        "direction": ("in which direction is it moving ?", "where does the shape move ?"),
    },
}
INSTRUCTION = "look at the video"
# Answers in written English.
SENTENCES = {"colour": "The shape is {}.", "shape": "It is a {}.", "direction": "It moves {}."}
WAYS = {"left": "to the left", "right": "to the right"}


class ShapeQuestions(Synthetic):
    """Moving shapes with a question and its answer; the attributes and wordings take turns.

    Args:
        ask: attributes that are asked about.
        wording: see `QUESTIONS`.
        turns: questions about one video, each about another attribute.
        instruction: of every conversation.
        still: the first frame stands still: colour and shape can be answered, and direction only guessed.
        sentences: "What colour is it?", "The shape is red.", for a language model that knows English. Without, a
            question has a space before its mark, and an answer is one word, for a vocabulary of these words.
        options: of `Synthetic`.

    Raises:
        ValueError: no attribute, or more turns than attributes.
    """

    def __init__(
        self,
        samples: int = 1024,
        ask: tuple[Literal["colour", "shape", "direction"], ...] = ("colour", "direction"),
        wording: Literal["familiar", "other"] = "familiar",
        turns: int = 1,
        instruction: str = INSTRUCTION,
        still: bool = False,
        sentences: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(samples, **options)
        if not 1 <= turns <= len(set(ask)):
            raise ValueError(f"{turns} turns cannot be asked about {len(set(ask))} attributes: set `turns` or `ask`")
        self.ask, self.wording, self.turns, self.instruction, self.still = ask, wording, turns, instruction, still
        self.sentences = sentences

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        index = range(len(self))[index]
        shape, colour, direction = self.combinations[index % len(self.combinations)]
        answers = {"shape": shape, "colour": colour, "direction": direction}
        chat, bits = [], mix(self.seed, index, 7)
        for turn in range(self.turns):
            asked = self.ask[(bits + turn) % len(self.ask)]
            wordings = QUESTIONS[self.wording][asked]
            question, answer = wordings[(bits >> 16) % len(wordings)], answers[asked]
            if self.sentences:
                question = question.replace(" ?", "?").capitalize()
                answer = SENTENCES[asked].format(WAYS.get(answer, answer))
            chat.append(Exchange(question, answer, self.instruction))
        assert isinstance(sample.content, Video)  # generated
        return replace(sample, chat=chat, content=_Still(sample.content) if self.still else sample.content)


class _Still(Video):
    """A video whose every frame is its first."""

    def __init__(self, video: Video) -> None:
        self.video, self.name, self.fps, self.size = video, video.name, video.fps, video.size

    def __len__(self) -> int:
        return len(self.video)

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        return np.repeat(self.video.frames([0]), len(wanted), axis=0)
