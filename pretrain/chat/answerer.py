"""What answers questions about clips: the interface that benchmarks, conversations and the server use."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from models.chat.regions import most_named
from models.chat.templates import Conversation


@dataclass(frozen=True)
class Request:
    """A conversation whose last answer is to be written.

    clips: of its media in order, uint8 `[C, T, H, W]` each; T is 1 for an image.
    instruction: what a Q-Former reads; None: what the template gives.
    regions: of each clip, how much of its pixels each region covers, float32 `[R, T, H, W]`, or None. `<obj1>`, ... in
        questions are the regions of all clips in order. Empty: no clip has any.
    """

    conversation: Conversation
    clips: tuple[Tensor, ...] = ()
    instruction: str | None = None
    regions: tuple[Tensor | None, ...] = ()

    def __post_init__(self) -> None:
        media = sum(len(turn.media) for turn in self.conversation.turns)
        if media != len(self.clips):
            raise ValueError(f"the conversation has places for {media} media, and {len(self.clips)} clips are given")
        if self.regions and len(self.regions) != media:
            raise ValueError(f"regions of {len(self.regions)} clips are given for {media}")
        there = sum(len(each) for each in self.regions if each is not None)
        named = most_named(turn.question for turn in self.conversation.turns)
        if there < named and self.regions:
            raise ValueError(f"a question names <obj{named}>, and {there} regions are given")
        if self.conversation.turns[-1].answer is not None:
            raise ValueError("the last turn has its answer already: leave it out to have it written")


@dataclass(frozen=True)
class Writing:
    """How an answer is written.

    most: new tokens.
    temperature: 0 always takes the likeliest token.
    top_p: the likeliest tokens of this total probability are drawn from.
    seed: of the draws.
    schema: JSON schema, as text, that a streamed answer keeps to; see `pretrain.chat.structured`.
    """

    most: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    schema: str | None = None

    def __post_init__(self) -> None:
        if self.most < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"an answer has one token or more ({self.most}), a temperature from 0 ({self.temperature}) and a top_p "
                f"above 0 and at most 1 ({self.top_p})"
            )


@dataclass(frozen=True)
class Written:
    """A streamed answer.

    tokens: new ones; asked: those of the conversation.
    finished: the model ended it; False: the limit or the reader did.
    """

    text: str
    tokens: int
    asked: int
    finished: bool


class Answerer(ABC):
    """Answers requests.

    Attributes:
        frames, size: of the clips that it takes; pixels of a side.
        tiles: the most squares of this size in a frame, if it takes frames of any shape; None: a frame is one.
        regions: it takes requests with regions.
    """

    frames: int
    size: int
    tiles: int | None = None
    regions: bool = False

    @abstractmethod
    def identity(self) -> str:
        """A name of the model that changes with its weights."""

    @abstractmethod
    def answer(self, requests: Sequence[Request], writing: Writing) -> list[str]:
        """The text of each answer; ValueError if a conversation is longer than the model's context."""

    @abstractmethod
    def likelihoods(self, request: Request, options: Sequence[str]) -> list[float]:
        """The mean log-probability of a token of each option, as the answer."""

    @abstractmethod
    def stream(self, request: Request, writing: Writing, write: Callable[[str], bool]) -> Written:
        """The answer of one request; `write` gets each piece of text as it comes, and says whether to go on."""
