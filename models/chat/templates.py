"""Chat templates: a conversation about videos and images as segments of text with roles.

Notable: nothing here tokenises. The text of a run of segments is tokenised once (`models/chat/conversation.py`); which
tokens are learnt follows from the segments that they lie in. The layouts are those of VideoChat2's three releases.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

Media = Literal["video", "image"]
TAGS: dict[str, str] = {"video": "Video", "image": "Image"}


class Role(Enum):
    """What a segment is; answers and ends are learnt."""

    PROMPT = "prompt"  # instruction, question, punctuation of the template
    MARKER = "marker"  # says whose turn it is; learnt only in Vicuna's released form
    ANSWER = "answer"
    END = "end"  # closes an answer
    VISUAL = "visual"  # the place of a medium's tokens; no text


@dataclass(frozen=True)
class Segment:
    """A piece of text of one role.

    text: as it is tokenised; empty for a medium.
    apart: tokenised apart from the text before it, as VideoChat2's captions are.
    """

    text: str
    role: Role = Role.PROMPT
    apart: bool = False


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    question: may be empty: a caption.
    answer: None: it is to be written, from the end of the prompt on.
    media: shown with the question.
    message: a sentence about the media, such as the times of the frames.
    prefix: the first words of an answer that is to be written.
    """

    question: str
    answer: str | None = None
    media: tuple[Media, ...] = ()
    message: str = ""
    prefix: str = ""


@dataclass(frozen=True)
class Conversation:
    """Turns after an instruction (a system prompt), which may be empty."""

    turns: tuple[Turn, ...]
    instruction: str = ""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError("a conversation has at least one turn, and one has none")
        open_turns = [i for i, turn in enumerate(self.turns) if turn.answer is None]
        if open_turns and open_turns != [len(self.turns) - 1]:
            raise ValueError(f"only the last turn may lack its answer, and turn {open_turns[0] + 1} lacks it")


class ChatTemplate(Protocol):
    """A conversation to segments. `end` closes an answer; generation stops at any of `stops`."""

    end: str
    stops: tuple[str, ...]

    def segments(self, conversation: Conversation) -> list[Segment]:
        """The segments of a conversation, in order."""

    def qformer_text(self, conversation: Conversation) -> str:
        """What the Q-Former reads of it; never an answer."""


@dataclass(frozen=True)
class Vicuna:
    """Vicuna v0's: `{instruction} ###Human: <Video></Video> ###Human: {question} ###Assistant: {answer} ###`.

    learn_markers: role markers after the media are learnt too, as in the released training.
    released_prompt: line breaks instead of spaces, as in the released inference; training never saw these.
    """

    learn_markers: bool = False
    released_prompt: bool = False
    end: str = "###"
    stops: tuple[str, ...] = ("###",)

    def segments(self, conversation: Conversation) -> list[Segment]:
        gap = "\n" if self.released_prompt else " "
        marker = Role.MARKER if self.learn_markers else Role.PROMPT
        found = _instruction(conversation, "" if self.released_prompt else " ")
        closed = False  # the ### that closes an answer is that of the next marker
        for turn in conversation.turns:
            if turn.media:
                found.append(Segment("Human: " if closed else "###Human: "))
                found += [*media_segments(turn), Segment(gap)]
                closed = False
            if turn.question or not turn.media:
                found.append(Segment("Human: " if closed else "###Human: ", marker))
                found.append(Segment(turn.question + gap))
            found.append(Segment("###Assistant:" + " " * bool(turn.answer or turn.prefix), marker))
            if turn.answer is None:
                found.append(Segment(turn.prefix))
            else:
                found += [Segment(turn.answer + " ", Role.ANSWER), Segment("###", Role.END)]
            closed = True
        return joined(found)

    def qformer_text(self, conversation: Conversation) -> str:
        """The instruction and the first question; empty without an instruction."""
        if not conversation.instruction:
            return ""
        return f"{conversation.instruction} {conversation.turns[0].question}".strip()


@dataclass(frozen=True)
class Mistral:
    """Mistral's: `{instruction} [INST] <Video></Video> [/INST] [INST] {question} [/INST] {answer} </s>`.

    released_prompt: no space after the instruction, as in the released inference.
    """

    released_prompt: bool = False
    end: str = "</s>"
    stops: tuple[str, ...] = ("</s>",)

    def segments(self, conversation: Conversation) -> list[Segment]:
        found = _instruction(conversation, "" if self.released_prompt else " ")
        if found and not conversation.turns[0].media and not self.released_prompt:
            found.append(Segment(" "))  # the released training leaves the place of the media between two spaces
        for i, turn in enumerate(conversation.turns):
            found.append(Segment(" " if i else ""))
            if turn.media:
                gap = " " if turn.question or turn.answer or turn.prefix else ""
                found += [Segment("[INST] "), *media_segments(turn), Segment(" [/INST]" + gap)]
            if turn.question:
                gap = " " if turn.answer is not None or turn.prefix else ""
                found.append(Segment(f"[INST] {turn.question} [/INST]{gap}"))
            if turn.answer is None:
                found.append(Segment(turn.prefix))
            else:
                found += [Segment(turn.answer + " ", Role.ANSWER), Segment(self.end, Role.END)]
        return joined(found)

    def qformer_text(self, conversation: Conversation) -> str:
        """The instruction."""
        return conversation.instruction


@dataclass(frozen=True)
class Phi3:
    """Phi-3's, a line each: `<|system|>`, `{instruction}<|end|>`, `<|user|>`, `<Video></Video>`, `{question}<|end|>`,
    `<|assistant|>`, `{answer}<|end|>`.

    released_prompt: a space between media and question, and no line break after the assistant's marker.
    """

    released_prompt: bool = False
    end: str = "<|end|>"
    stops: tuple[str, ...] = ("<|end|>", "<|endoftext|>")

    def segments(self, conversation: Conversation) -> list[Segment]:
        found = []
        if conversation.instruction:
            found.append(Segment(f"<|system|>\n{conversation.instruction}<|end|>\n"))
        for i, turn in enumerate(conversation.turns):
            found.append(Segment("\n<|user|>\n" if i else "<|user|>\n"))
            if turn.media:
                found += [*media_segments(turn), Segment(" " if self.released_prompt else "\n")]
            gap = "" if self.released_prompt and turn.answer is None else "\n"
            found.append(Segment(f"{turn.question}<|end|>\n<|assistant|>{gap}"))
            if turn.answer is None:
                found.append(Segment(turn.prefix))
            else:
                found += [Segment(turn.answer, Role.ANSWER), Segment(self.end, Role.END)]
        return joined(found)

    def qformer_text(self, conversation: Conversation) -> str:
        """The instruction."""
        return conversation.instruction


def caption_segments(prompt: str, caption: str | None, template: ChatTemplate) -> list[Segment]:
    """A caption after a prompt with the place of a medium, `###Human: <Video><VideoHere></Video> ... ###Assistant: `.

    The caption is tokenised apart from the prompt, as in VideoChat2's second stage.

    Args:
        caption: None: it is to be written.

    Raises:
        ValueError: the prompt does not have exactly one `<VideoHere>` or `<ImageHere>`.
    """
    parts = re.split("<VideoHere>|<ImageHere>", prompt)
    if len(parts) != 2:
        raise ValueError(
            f"a caption's prompt has one <VideoHere> or <ImageHere>, and this has {len(parts) - 1}: {prompt}"
        )
    found = [Segment(parts[0]), Segment("", Role.VISUAL), Segment(parts[1])]
    if caption is not None:
        found += [Segment(caption, Role.ANSWER, apart=True), Segment(template.end, Role.END)]
    return joined(found)


def as_text(segments: Sequence[Segment], place: str = "") -> str:
    """The whole text, with `place` where the media are."""
    return "".join(place if segment.role is Role.VISUAL else segment.text for segment in segments)


def _instruction(conversation: Conversation, gap: str) -> list[Segment]:
    return [Segment(conversation.instruction + gap)] if conversation.instruction else []


def media_segments(turn: Turn) -> list[Segment]:
    """The turn's media between their tags, and the message about them."""
    found = []
    for medium in turn.media:
        found += [Segment(f"<{TAGS[medium]}>"), Segment("", Role.VISUAL), Segment(f"</{TAGS[medium]}>")]
    message = turn.message.strip()
    return [*found, Segment(f" {message}")] if message else found


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """The segments without empty ones, neighbours of one role joined."""
    found: list[Segment] = []
    for segment in segments:
        if segment.role is not Role.VISUAL and not segment.text:
            continue
        if found and not segment.apart and segment.role is found[-1].role is not Role.VISUAL:
            found[-1] = Segment(found[-1].text + segment.text, segment.role, found[-1].apart)
        else:
            found.append(segment)
    return found
