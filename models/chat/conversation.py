"""Segments to token ids, labels and places of visual tokens, and batches of them.

Notable: the text between two media is tokenised once, with the characters that each token covers; a token is learnt if
its last character lies in a segment that is learnt. No text is tokenised twice and no lengths are added up.

Letters in shapes: B conversations, L tokens, S visual tokens of a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.chat.row_attention import Packs
from models.chat.templates import Role, Segment

IGNORE_INDEX = -100
_LEARNT = (Role.ANSWER, Role.END, Role.MARKER)


@dataclass(frozen=True)
class Tokens:
    """A conversation as tokens.

    ids: with the pad token in the places of visual tokens.
    labels: the ids where tokens are learnt, else IGNORE_INDEX.
    slots: places of the visual tokens, in order.
    cut: tokens that the length limit removed.
    """

    ids: Sequence[int]
    labels: Sequence[int]
    slots: Sequence[int]
    cut: int = 0


@dataclass(frozen=True)
class ChatBatch:
    """Conversations as a batch.

    ids, labels: int64 `[B, L]`, padded on the right.
    lengths: int64 `[B]`.
    slots: places of all visual tokens, in order, in the flattened ids, int64 `[S]`.
    packs: of a single row that holds several conversations, which do not see each other; None: a row is one.
    before_targets: places after which some row has a target, in order, int64 `[K]`, at least one: the logits of others
        are not needed. None: it is not known.
    """

    ids: Tensor
    labels: Tensor
    lengths: Tensor
    slots: Tensor
    packs: Packs | None = None
    before_targets: Tensor | None = None

    @property
    def attention_mask(self) -> Tensor:
        """1 at tokens, 0 at padding, int64 `[B, L]`, as language models of transformers take it."""
        return (torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]).long()

    def to(self, device: torch.device | str) -> "ChatBatch":
        return self.moved(lambda x: x.to(device))

    def moved(self, move: Callable[[Tensor], Tensor]) -> "ChatBatch":
        """With `move` of every tensor."""
        packs = None if self.packs is None else self.packs.moved(move)
        places = None if self.before_targets is None else move(self.before_targets)
        return ChatBatch(move(self.ids), move(self.labels), move(self.lengths), move(self.slots), packs, places)


def pad_token(tokenizer: Any) -> int:
    """The id of the pad token. ValueError if the tokenizer has none."""
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "the tokenizer has no pad token: set one that is not the end token (tokenizer.pad_token = "
            "tokenizer.unk_token, or a new token). Released VideoChat2 uses the end token; padding is never a target "
            "here, so that is possible too"
        )
    return tokenizer.pad_token_id


def tokenize(
    segments: Sequence[Segment],
    tokenizer: Any,
    visual: Sequence[int],
    limit: int | None = None,
    answer_limit: int | None = None,
    context: int | None = None,
    ignore_pad_targets: bool = False,
) -> Tokens:
    """Token ids, labels and slots of a conversation.

    Args:
        tokenizer: a fast one of transformers.
        visual: the number of tokens of each medium, in order.
        limit: of all tokens; what exceeds it is cut at the end and counted.
        answer_limit: of the tokens of an answer that is tokenised apart (a caption and its end).
        context: of the language model. A conversation that exceeds it after `limit` is an error.
        ignore_pad_targets: tokens equal to the pad token are no targets, as in VideoChat2's second stage, whose pad
            token is the end token: its Mistral never learns there to stop.

    Raises:
        ValueError: no pad token, a slow tokenizer, another number of media, no target left by the limit, or a
            conversation longer than the context.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("labels need the characters of each token: load the tokenizer with use_fast=True")
    places, pad = sum(segment.role is Role.VISUAL for segment in segments), pad_token(tokenizer)
    if places != len(visual):
        raise ValueError(f"the conversation has places for {places} media, and {len(visual)} are given")
    ids: list[int] = []
    labels: list[int] = []
    slots: list[int] = []
    start = tokenizer.bos_token_id
    if start is not None and not _begins_with(segments, tokenizer.bos_token):
        ids, labels = [start], [IGNORE_INDEX]
    counts, cut = iter(visual), 0
    for run in _runs(segments):
        if run[0].role is Role.VISUAL:
            count = next(counts)
            slots += range(len(ids), len(ids) + count)
            ids += [pad] * count
            labels += [IGNORE_INDEX] * count
            continue
        tokens, targets = _tokenize_run(run, tokenizer)
        if run[0].apart and answer_limit is not None:
            cut += max(0, len(tokens) - answer_limit)
            tokens, targets = tokens[:answer_limit], targets[:answer_limit]
        if ignore_pad_targets:
            targets = [IGNORE_INDEX if target == pad else target for target in targets]
        ids += tokens
        labels += targets
    had_target = any(label != IGNORE_INDEX for label in labels)
    if limit is not None and len(ids) > limit:
        cut += len(ids) - limit
        ids, labels, slots = ids[:limit], labels[:limit], [slot for slot in slots if slot < limit]
        if len(slots) < sum(visual):
            raise ValueError(
                f"a limit of {limit} tokens is too small for the {sum(visual)} visual tokens and the text before them: "
                "raise it"
            )
    if had_target and all(label == IGNORE_INDEX for label in labels):
        raise ValueError(
            f"no token of an answer is left of a conversation that is cut by {cut} tokens: raise the limit "
            f"({limit or answer_limit} tokens), or leave the conversation out"
        )
    if context is not None and len(ids) > context:
        raise ValueError(
            f"a conversation has {len(ids)} tokens ({len(slots)} of them visual), and the language model's context is "
            f"{context}: give a limit, fewer frames or tiles, or fewer turns"
        )
    return Tokens(ids, labels, slots, cut)


def collate(conversations: Sequence[Tokens], pad: int) -> ChatBatch:
    """Conversations as a batch, padded on the right with `pad`."""
    length = max(len(tokens.ids) for tokens in conversations)
    ids = torch.full((len(conversations), length), pad)
    labels = torch.full((len(conversations), length), IGNORE_INDEX)
    slots = []
    for i, tokens in enumerate(conversations):
        ids[i, : len(tokens.ids)] = torch.as_tensor(tokens.ids)
        labels[i, : len(tokens.ids)] = torch.as_tensor(tokens.labels)
        slots += [i * length + slot for slot in tokens.slots]
    lengths = torch.tensor([len(tokens.ids) for tokens in conversations])
    places = torch.tensor(slots, dtype=torch.long)
    return ChatBatch(ids, labels, lengths, places, before_targets=_before_targets(labels))


def pack(conversations: Sequence[Tokens]) -> ChatBatch:
    """Conversations one after another in a single row without padding; none of them sees another."""
    packs = Packs.of(tuple(len(tokens.ids) for tokens in conversations))
    starts = packs.bounds.tolist()
    ids = torch.cat([torch.as_tensor(tokens.ids) for tokens in conversations])[None]
    labels = torch.cat([torch.as_tensor(tokens.labels) for tokens in conversations])[None]
    labels[0, starts[:-1]] = IGNORE_INDEX  # nothing before it predicts a conversation's first token
    slots = [start + slot for start, tokens in zip(starts, conversations, strict=False) for slot in tokens.slots]
    places = torch.tensor(slots, dtype=torch.long)
    return ChatBatch(ids, labels, torch.tensor(starts[-1:]), places, packs, _before_targets(labels))


def _before_targets(labels: Tensor) -> Tensor:
    """See `ChatBatch`."""
    places = (labels[:, 1:] != IGNORE_INDEX).any(dim=0).nonzero()[:, 0]
    return places if len(places) else torch.zeros(1, dtype=torch.long)


def _begins_with(segments: Sequence[Segment], start: str) -> bool:
    """Whether the text already begins with the start token, as a tokenizer's own template may write it."""
    return bool(segments) and segments[0].text.startswith(start)


def _runs(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments whose text is tokenised at once, each medium alone."""
    runs: list[list[Segment]] = []
    for segment in segments:
        alone = segment.role is Role.VISUAL or segment.apart
        if not runs or alone or runs[-1][0].role is Role.VISUAL:
            runs.append([segment])
        else:
            runs[-1].append(segment)
    return runs


def _tokenize_run(run: Sequence[Segment], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids and labels of text without media."""
    learnt = [segment.role in _LEARNT for segment in run for _ in segment.text]  # of each character
    text = "".join(segment.text for segment in run)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    # A token without characters of its own, such as a leading space that the tokenizer adds, goes with the next one.
    last = [min(max(end - 1, start), len(text) - 1) for start, end in spans]
    return ids, [token if learnt[place] else IGNORE_INDEX for token, place in zip(ids, last, strict=True)]
