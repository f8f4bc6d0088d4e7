"""Samples to rows of token ids: conversations and captions by a chat template, and what the Q-Former reads."""

import functools
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch

from models.chat.conversation import IGNORE_INDEX, Tokens, tokenize
from models.chat.regions import coverage, region_places
from models.chat.templates import (
    ChatTemplate,
    Conversation,
    Media,
    Mistral,
    Phi3,
    Role,
    Segment,
    Turn,
    Vicuna,
    caption_segments,
)
from models.chat.tokenizer_template import TokenizerTemplate
from models.tokenizers import BertTokenizer
from pretrain.learning.language import Language

log = logging.getLogger(__name__)
TemplateName = Literal["vicuna", "mistral", "phi3", "tokenizer"]
Row = dict[str, np.ndarray]
_PROMPT = 48  # tokens of a prompt before a caption, and of an instruction, in `example`


@dataclass
class ChatRows:
    """Makes a row of token ids of each sample, in the loading processes.

    A row has `ids`, `labels` and `slots` (see `models.chat.conversation.Tokens`), `cut`, the number of tokens that the
    limits removed, and `reads`, ids for the Q-Former, if it reads a text.

    Args:
        language: its tokenizer is used.
        template: of conversations; `tokenizer`: the one that the tokenizer carries.
        visual: tokens of a video, or of a view of it.
        tile: pixels of a tile, if frames are cut in tiles; None: a video is one view.
        reader: tokenizer of the Q-Former's text; None: it reads none.
        limit: tokens of a conversation besides the visual ones.
        answer_limit: tokens of a caption and its end.
        context: of the language model.
        prompts, image_prompts: before a caption, one at random; each has one <VideoHere> (or <ImageHere>). None: a
            caption is the answer to an empty question.
        times: say at which seconds the frames were taken.
        learn_markers, ignore_pad_targets: see `Vicuna` and `tokenize`.
        grid: times, rows and columns of the encoder's tokens, if questions name regions. `<obj1>`, ... are then places
            of region tokens; a row also has `order`, what each place of visual tokens is for (see `region_places`), and
            `regions`, the coverage of tokens by each region, float32 `[R, N]`. Clips must show whole frames.
    """

    language: Language
    template: TemplateName
    visual: int
    tile: int | None = None
    reader: BertTokenizer | None = None
    limit: int | None = None
    answer_limit: int | None = None
    context: int | None = None
    prompts: Sequence[str] | None = None
    image_prompts: Sequence[str] | None = None
    times: bool = False
    learn_markers: bool = False
    ignore_pad_targets: bool = False
    grid: tuple[int, int, int] | None = None

    def __call__(self, sample: Any, shown: Any, draw: int | None) -> Row:
        """See `datamodules.loading.text_rows.Encode`. Without a conversation, the sample's text is its caption."""
        chat = [(e.question, e.answer, e.instruction) for e in sample.chat or ()]
        caption = sample.text if isinstance(sample.text, str) or not sample.text else sample.text[0]
        if not chat and not caption:
            raise ValueError("it has neither a conversation nor a text to learn from: leave it out")
        covered = None
        if self.grid is not None and sample.regions is not None:
            covered = coverage(torch.from_numpy(sample.regions(shown.seconds)), self.grid).numpy()
        return self.row(chat, caption, shown.image, shown.seconds, shown.size, draw, covered)

    def row(
        self,
        chat: list[tuple[str, str, str]],
        caption: str | None,
        image: bool = False,
        seconds: Sequence[float] = (),
        size: tuple[int, int] = (0, 0),
        draw: int | None = None,
        covered: np.ndarray | None = None,
    ) -> Row:
        """The row of a conversation, or of a caption if there is none.

        Args:
            chat: question, answer and instruction of each turn; their order is drawn anew, and the instruction is that
                of the first.
            draw: 64 random bits; None: nothing is drawn.
            covered: of regions, see `grid`.
        """
        rng = None if draw is None else random.Random(draw)
        if rng is not None:
            chat = rng.sample(chat, len(chat))
        media: Media = "image" if image else "video"
        prompts = self.image_prompts if image and self.image_prompts else self.prompts
        if not chat and prompts:
            prompt = prompts[0] if rng is None else rng.choice(list(prompts))
            segments, read = caption_segments(prompt, caption, self.chat_template), ""
        else:
            message = _times_in_words(seconds) if self.times and seconds else ""
            turns = chat or [("", caption or "", "")]
            made = [
                Turn(question, answer, (media,) if i == 0 else (), message if i == 0 else "")
                for i, (question, answer, _) in enumerate(turns)
            ]
            conversation = Conversation(tuple(made), turns[0][2])
            segments = self.chat_template.segments(conversation)
            read = self.chat_template.qformer_text(conversation)
        return self._row(segments, read, size, covered)

    def blank(self, shown: Any) -> Row:
        """A row without targets, for a sample that cannot be read."""
        return self._row([Segment("", Role.VISUAL)], "", shown.size)

    def _row(self, segments: list[Segment], read: str, size: tuple[int, int], covered: np.ndarray | None = None) -> Row:
        visual = self.visual * self.views(size)
        counts, order = [visual], [-1]
        if self.grid is not None:
            segments, order = region_places(segments)
            if max(order, default=-1) >= (0 if covered is None else len(covered)):
                raise ValueError(f"it names <obj{max(order) + 1}>, and has no such region")
            counts = [visual if region < 0 else 1 for region in order]
        tokens = tokenize(
            segments,
            self.tokenizer,
            counts,
            limit=None if self.limit is None else self.limit + sum(counts),
            answer_limit=self.answer_limit,
            context=self.context,
            ignore_pad_targets=self.ignore_pad_targets,
        )
        row: Row = {name: np.array(getattr(tokens, name), np.int64) for name in ("ids", "labels", "slots")}
        row["cut"] = np.array(tokens.cut)
        if self.grid is not None:
            row["order"] = np.array(order, np.int64)
            row["regions"] = np.zeros((0, math.prod(self.grid)), np.float32) if covered is None else covered
        if self.reader is not None:
            ids = self.reader([read])[0]
            row["reads"] = ids[ids != self.reader.pad].numpy()
        return row

    def example(self, size: tuple[int, int], tokens: int | None = None) -> Row:
        """A row of a size, for what needs no text: as long as the limit allows, or of so many text tokens."""
        visual = self.visual * self.views(size)
        text = tokens or self.limit or (self.answer_limit or 0) + _PROMPT
        text = min(text, (self.context or text + visual) - visual)
        row = {"ids": np.zeros(visual + text, np.int64), "slots": np.arange(visual), "cut": np.array(0)}
        row["labels"] = np.array([IGNORE_INDEX] * visual + [0] * text)
        if self.reader is not None:
            row["reads"] = np.zeros(min(self.reader.context, tokens or _PROMPT), np.int64)
        return row

    def views(self, size: tuple[int, int]) -> int:
        """Views of a video of this height and width: its tiles and the whole."""
        return 1 if self.tile is None else size[0] * size[1] // self.tile**2 + 1

    @property
    def tokenizer(self) -> Any:
        return self.language.load_tokenizer()

    @property
    def chat_template(self) -> ChatTemplate:
        if self.template == "tokenizer":
            return _own_template(self.language.tokenizer or self.language.weights or "", self.language.pad)
        made: dict[str, Any] = {"vicuna": Vicuna(self.learn_markers), "mistral": Mistral(), "phi3": Phi3()}
        return made[self.template]


@functools.cache
def _own_template(folder: str, pad: str | None) -> TokenizerTemplate:
    return TokenizerTemplate(Language({}, tokenizer=folder, pad=pad).load_tokenizer())


def _times_in_words(seconds: Sequence[float]) -> str:
    """VideoChat2's sentence about the times of frames."""
    said = ", ".join(str(round(second, 1)) for second in seconds)
    return f"The video contains {len(seconds)} frames sampled at {said} seconds."


def tokens_of(row: Row) -> Tokens:
    """A row's ids, labels and slots, for `collate` and `pack`."""
    ids, labels, slots = (cast(Any, row[name]) for name in ("ids", "labels", "slots"))
    return Tokens(ids, labels, slots, int(row["cut"]))
