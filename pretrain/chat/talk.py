"""A conversation in turns about several videos and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from models.chat.templates import Conversation, Turn
from pretrain.chat.answerer import Answerer, Request, Writing, Written
from pretrain.chat.media import Clip

# What VideoChat2's demo gives its Q-Former to read.
INSTRUCTIONS = {
    "video": "Watch the video and answer the question.",
    "image": "Observe the image and answer the question.",
}


def request_of(
    turns: Sequence[Turn], clips: Sequence[Clip], instruction: str = "", regions: Sequence[Tensor | None] = ()
) -> Request:
    """A request whose Q-Former reads the instruction, or without one VideoChat2's of the first medium.

    Args:
        clips: of all turns' media, in order.
        instruction: said before the first turn.
        regions: see `Request`.
    """
    read = instruction or (INSTRUCTIONS[clips[0].kind] if clips else "")
    pixels = tuple(clip.pixels for clip in clips)
    return Request(Conversation(tuple(turns), instruction), pixels, read, tuple(regions))


class Talk:
    """Turns so far, and media that the next question is about.

    Args:
        answerer: who answers.
        instruction: a system prompt.
        times: tell the model when the frames were taken.
        writing: how answers are written.
    """

    def __init__(
        self, answerer: Answerer, instruction: str = "", times: bool = False, writing: Writing | None = None
    ) -> None:
        self.answerer, self.instruction, self.times = answerer, instruction, times
        self.writing = writing or Writing()
        self.turns: list[Turn] = []
        self.clips: list[Clip] = []
        self.shown: list[Clip] = []  # with the next question

    def show(self, clip: Clip) -> None:
        """A medium that the next question, and later ones, are about."""
        self.shown.append(clip)

    def ask(self, question: str, write: Callable[[str], bool] = lambda piece: True) -> Written:
        """The answer, which becomes a part of the conversation; `write` gets its pieces, and says whether to go on.

        Raises:
            ValueError: no question, or the conversation exceeds the model's context; it then is as it was before.
        """
        if not question.strip():
            raise ValueError("ask something: the question is empty")
        message = " ".join(clip.times() for clip in self.shown).strip() if self.times else ""
        turn = Turn(question.strip(), media=tuple(clip.kind for clip in self.shown), message=message)
        clips = [*self.clips, *self.shown]
        request = request_of([*self.turns, turn], clips, self.instruction)
        written = self.answerer.stream(request, self.writing, write)
        self.turns.append(replace(turn, answer=written.text))
        self.clips, self.shown = clips, []
        return written

    def forget(self) -> None:
        """Start anew, with the media that were shown so far."""
        self.shown, self.clips, self.turns = [*self.clips, *self.shown], [], []
