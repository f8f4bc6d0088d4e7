"""Words to numbers: the tokenizers of CLIP and BERT, from well-kept libraries, in the form that our text towers take.

Letters in shapes: B texts, L places of a text.
"""

import contextlib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_CACHED_WORDS = 200_000


class Tokenizer:
    """The contract: `tokenizer(texts)` gives int64 `[B, context]`, padded with `pad`.

    A text that is too long is cut, and its end still marked. Special ids that a tokenizer does not have are None.
    """

    context: int
    vocabulary: int
    pad: int = 0
    start: int | None = None
    end: int | None = None
    mask: int | None = None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError


class CLIPTokenizer(Tokenizer):
    """CLIP's byte-pair tokenizer (open_clip's, which brings the vocabulary): start, words in lower case, end, zeros.

    Args:
        context: places of a text; the last of a text that is cut holds the end.
    """

    vocabulary, start, end = 49408, 49406, 49407

    def __init__(self, context: int = 32) -> None:
        if context < 2:
            raise ValueError(f"a context of {context} has no room for start and end: give it 2 places or more")
        self.context = context

    def __call__(self, texts: Sequence[str]) -> Tensor:
        bpe = byte_pairs()
        if len(bpe.cache) > _CACHED_WORDS:  # it would keep every word of every caption
            byte_pairs.cache_clear()
        ids = torch.zeros(len(texts), self.context, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            words = [_OFFICIAL.get(word, word) for word in bpe.encode(text)[: self.context - 2]]
            row[: len(words) + 2] = torch.tensor([self.start, *words, self.end])
        return ids


# A caption may spell CLIP's own special words. open_clip has renamed them; as further words they get further numbers.
_SPELT = ("<|startoftext|>", "<|endoftext|>")
_OFFICIAL = {49408: CLIPTokenizer.start, 49409: CLIPTokenizer.end}


@functools.cache
def byte_pairs():
    from open_clip.tokenizer import SimpleTokenizer

    patterns = [re.escape(word) for word in _SPELT]  # it joins them into one regular expression as they are
    bpe = SimpleTokenizer(additional_special_tokens=patterns, clean="lower")
    bpe.cache.update(zip(_SPELT, patterns, strict=True))
    return bpe


class BertTokenizer(Tokenizer):
    """BERT's word pieces (transformers'): [CLS], words in lower case, [SEP], zeros.

    The vocabulary is read when it is first asked for anything, so that a recipe can be looked at without it.

    Args:
        vocabulary: a vocab.txt, a folder that `from_pretrained` reads, or a name on the hub.
        context: places of a text.

    Raises:
        FileNotFoundError: the vocabulary is neither there nor to be had from the hub.
    """

    vocabulary = property(lambda self: len(self._pieces))
    pad = property(lambda self: self._pieces.pad_token_id)
    mask = property(lambda self: self._pieces.mask_token_id)
    start = property(lambda self: self._pieces.cls_token_id)
    end = property(lambda self: self._pieces.sep_token_id)

    def __init__(self, vocabulary: str = "bert-base-uncased", context: int = 32) -> None:
        self.context, self.source = context, vocabulary

    @property
    def _pieces(self):
        return _word_pieces(self.source)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if not len(texts):
            return torch.zeros(0, self.context, dtype=torch.long)
        how = {"padding": "max_length", "truncation": True, "max_length": self.context}
        return self._pieces(list(texts), **how, return_tensors="pt").input_ids


@functools.cache
def _word_pieces(source: str):
    try:
        from transformers import BertTokenizerFast
    except ImportError as error:
        raise ImportError("BERT's tokenizer needs transformers: pip install 'tubelet[hf]'") from error
    if not source.endswith(".txt"):
        with contextlib.suppress(OSError):
            return _whole(BertTokenizerFast.from_pretrained(source), source)
    elif Path(source).is_file():
        return _whole(BertTokenizerFast(source), source)
    raise _absent(source)


def _whole(pieces, source: str):
    """The tokenizer, if it knows words: transformers 5 makes one of five special words where it finds no vocabulary."""
    if len(pieces) <= len(set(pieces.all_special_tokens)):
        raise _absent(source)
    return pieces


def _absent(source: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"no BERT vocabulary at {source!r}, nor on the hub from here: set the BertTokenizer's `vocabulary` to a "
        "vocab.txt or a folder of bert-base-uncased"
    )


_DELETED = re.compile(r"[,.'!?\"()*#:;~]")
_SPACED = str.maketrans("-/", "  ")
_SPACES = re.compile(r"\s{2,}")


def clean_caption(text: str, words: int | None = None) -> str:
    """A caption or prompt as ViCLIP and UMT feed it: lower case, without punctuation, in single spaces.

    Args:
        text: may be empty, and may become so.
        words: keep that many.

    Source: InternVideo1 `Pretrain/ViCLIP/dataset/utils.py: pre_text`.
    """
    text = _DELETED.sub("", text.lower()).translate(_SPACED).replace("<person>", "person")
    text = _SPACES.sub(" ", text).rstrip("\n").strip(" ")
    return text if words is None else " ".join(text.split(" ")[:words])


@dataclass
class Words:
    """How a method reads texts: cleaned or not, then numbered by its tokenizer.

    Args:
        tokenizer: of the text tower's weights.
        clean: by `clean_caption`, as ViCLIP and UMT stage 2 do with captions and prompts alike.
    """

    tokenizer: Tokenizer
    clean: bool = True

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Ids `[B, L]`. ValueError for what is no text."""
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"a caption should be a string, and one is {type(text).__name__}: {text!r:.80}")
        return self.tokenizer([clean_caption(text) for text in texts] if self.clean else texts)
