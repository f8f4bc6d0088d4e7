"""The tokenizers of CLIP (open_clip's) and BERT (transformers') with one interface, as the text towers take them.

Letters in shapes: B texts, L tokens.
"""

import contextlib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from models.fetch import local_path

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import BertTokenizer as WordPieces

_MAX_CACHED_WORDS = 200_000


class Tokenizer:
    """The contract: `tokenizer(texts)` gives int64 `[B, context]`, padded with `pad`.

    A text that is too long is cut before its end token. Special ids that a tokenizer lacks are None.
    """

    context: int
    vocabulary: int  # number of token ids
    pad: int = 0
    start: int | None = None
    end: int | None = None
    mask: int | None = None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id stands for, for display."""
        return [str(i) for i in ids]


class CLIPTokenizer(Tokenizer):
    """CLIP's byte-pair tokenizer (open_clip's, which includes the vocabulary): start, lower-case text, end, padding.

    Args:
        context: L; the last token of a text that is cut is the end token.
        padding: zeros (CLIP, Stable Diffusion 2), or the end token (Stable Diffusion 1).
    """

    vocabulary, start, end = 49408, 49406, 49407

    def __init__(self, context: int = 32, padding: Literal["zero", "end"] = "zero") -> None:
        if context < 2:
            raise ValueError(f"a context of {context} is too short for start and end: set it to at least 2")
        self.context, self.pad = context, 49407 if padding == "end" else 0

    def length(self, text: str) -> int:
        """Tokens of a text that is not cut, with start and end."""
        return len(byte_pairs().encode(text)) + 2

    def __call__(self, texts: Sequence[str]) -> Tensor:
        bpe = byte_pairs()
        if len(bpe.cache) > _MAX_CACHED_WORDS:  # open_clip caches every word of every caption
            byte_pairs.cache_clear()
        ids = torch.full((len(texts), self.context), self.pad, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            tokens = [_OFFICIAL_IDS.get(token, token) for token in bpe.encode(text)[: self.context - 2]]
            row[: len(tokens) + 2] = torch.tensor([self.start, *tokens, self.end])
        return ids

    def pieces(self, ids: Sequence[int]) -> list[str]:
        known, own = byte_pairs().decoder, {self.start: "<start>", self.end: "<end>"}
        return [own.get(i) or known.get(i, str(i)) for i in ids]


# A caption may contain CLIP's own special tokens. open_clip has renamed them, so they are added here and get new ids.
_SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")
_OFFICIAL_IDS = {49408: CLIPTokenizer.start, 49409: CLIPTokenizer.end}


@functools.cache
def byte_pairs() -> "SimpleTokenizer":
    """open_clip's tokenizer with CLIP's special tokens."""
    from open_clip.tokenizer import SimpleTokenizer

    patterns = [re.escape(token) for token in _SPECIAL_TOKENS]  # open_clip joins them unescaped into one expression
    bpe = SimpleTokenizer(additional_special_tokens=patterns, clean="lower")
    bpe.cache.update(zip(_SPECIAL_TOKENS, patterns, strict=True))
    return bpe


class BertTokenizer(Tokenizer):
    """BERT's word pieces (transformers'): [CLS], lower-case text, [SEP], zeros.

    The vocabulary is read at the first use: a recipe can be inspected without it.

    Args:
        vocabulary: a vocab.txt, a folder that `from_pretrained` reads, or a name on the hub.
        context: L.

    Raises:
        FileNotFoundError: the vocabulary is neither a file nor on the hub, or the hub cannot be reached.
    """

    def __init__(self, vocabulary: str = "bert-base-uncased", context: int = 32) -> None:
        self.context, self.source = context, vocabulary

    @property
    def vocabulary(self) -> int:  # pyrefly: ignore[bad-override] read-only here, as the vocabulary is read late
        return len(self._pieces)

    @property
    def pad(self) -> int:  # pyrefly: ignore[bad-override] read-only here, as the vocabulary is read late
        return self._pieces.pad_token_id

    @property
    def mask(self) -> int:  # pyrefly: ignore[bad-override] read-only here, as the vocabulary is read late
        return self._pieces.mask_token_id

    @property
    def start(self) -> int:  # pyrefly: ignore[bad-override] read-only here, as the vocabulary is read late
        return self._pieces.cls_token_id

    @property
    def end(self) -> int:  # pyrefly: ignore[bad-override] read-only here, as the vocabulary is read late
        return self._pieces.sep_token_id

    @property
    def _pieces(self) -> "WordPieces":
        return _word_pieces(self.source)

    def words(self) -> list[str]:
        """The word pieces in the order of their ids."""
        pieces = self._pieces.get_vocab()
        return sorted(pieces, key=pieces.__getitem__)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [str(piece) for piece in self._pieces.convert_ids_to_tokens(list(ids))]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if not len(texts):
            return torch.zeros(0, self.context, dtype=torch.long)
        options = {"padding": "max_length", "truncation": True, "max_length": self.context}
        return self._pieces(list(texts), **options, return_tensors="pt").input_ids


@functools.cache
def _word_pieces(source: str) -> "WordPieces":
    try:
        from transformers import BertTokenizerFast  # pyrefly: ignore[missing-module-attribute] a lazy alias in version 5
    except ImportError as error:
        raise ImportError("BERT's tokenizer needs transformers: pip install -e '.[hf]'") from error
    place = local_path(source)
    if not source.endswith(".txt"):
        with contextlib.suppress(OSError):
            return _checked(BertTokenizerFast.from_pretrained(str(place)), source)
    elif place.is_file():
        return _checked(BertTokenizerFast(str(place)), source)
    raise _not_found(source)


def _checked(pieces: "WordPieces", source: str) -> "WordPieces":
    """The tokenizer if it has a vocabulary: without a file, transformers 5 makes one with only the special tokens."""
    if len(pieces) <= len(set(pieces.all_special_tokens)):
        raise _not_found(source)
    return pieces


def _not_found(source: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"no BERT vocabulary at {source!r}, nor on the hub from here: set the BertTokenizer's `vocabulary` to a "
        "vocab.txt or a folder of bert-base-uncased"
    )


_DELETED = re.compile(r"[,.'!?\"()*#:;~]")
_SPACED = str.maketrans("-/", "  ")
_SPACES = re.compile(r"\s{2,}")


def clean_caption(text: str, words: int | None = None) -> str:
    """A caption or prompt as in ViCLIP and UMT: lower case, without punctuation, with single spaces.

    Args:
        text: may be empty, and may become empty.
        words: keep only the first `words` words.

    Source: InternVideo1 `Pretrain/ViCLIP/dataset/utils.py: pre_text`.
    """
    text = _DELETED.sub("", text.lower()).translate(_SPACED).replace("<person>", "person")
    text = _SPACES.sub(" ", text).rstrip("\n").strip(" ")
    return text if words is None else " ".join(text.split(" ")[:words])


@dataclass
class Words:
    """The text pipeline of a method: texts are cleaned, if wanted, and tokenized.

    Args:
        tokenizer: the tokenizer that the text tower's weights were trained with.
        clean: by `clean_caption`, as in ViCLIP and UMT's second stage, both captions and prompts.
    """

    tokenizer: Tokenizer
    clean: bool = True

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids `[B, L]`. ValueError if a text is no string."""
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"a caption should be a string, and one is {type(text).__name__}: {text!r:.80}")
        return self.tokenizer([clean_caption(text) for text in texts] if self.clean else texts)
