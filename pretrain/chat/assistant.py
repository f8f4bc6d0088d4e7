"""A VideoChat model that answers: clips and conversations in, text out.

Letters in shapes: B conversations, V clips, Q queries, l instruction tokens, D the language model's width.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.chat.conversation import IGNORE_INDEX, ChatBatch, collate, pad_token, tokenize
from models.chat.language_model import context_of, width_of
from models.chat.qformer import QFormer
from models.chat.regions import coverage, region_places
from models.chat.templates import ChatTemplate, Role, Segment
from models.chat.tokenizer_template import TokenizerTemplate
from models.chat.videochat import VideoChat
from models.chat.weight_layout import lay_out
from models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalize
from models.tokenizers import Tokenizer
from pretrain.chat.answerer import Answerer, Request, Writing, Written
from pretrain.chat.stopping import Pieces, Stops, end_tokens, until_stop
from pretrain.chat.structured import Structured


class Assistant(Answerer):
    """Answers of a trained VideoChat model.

    Args:
        model: in the type and on the device that it is to run in.
        tokenizer: of its language model; a fast one of transformers.
        template: of its conversations.
        reader: tokenizer of the Q-Former's texts, if it has a text branch.
        frames: of a video's clip.
        mean, std: statistics for the normalisation of pixels.
        name: what the model is called.
        tiles: frames are seen in tiles, at most so many, and as a whole (VideoChat2-HD); None: at once.

    Raises:
        ValueError: a Q-Former with texts, and no tokenizer of them.
    """

    def __init__(
        self,
        model: VideoChat,
        tokenizer: Any,
        template: ChatTemplate,
        reader: Tokenizer | None = None,
        frames: int = 8,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        name: str = "videochat",
        tiles: int | None = None,
    ) -> None:
        reads = isinstance(model.qformer, QFormer) and model.qformer.text
        if reads and reader is None:
            raise ValueError("the Q-Former reads instructions: give the tokenizer of its texts (reader)")
        self.model, self.tokenizer, self.template = model.eval(), tokenizer, template
        self.reader, self.frames, self.name, self.tiles = reader if reads else None, frames, name, tiles
        self.size: int = model.encoder.size
        self.regions = model.region_projector is not None
        first = next(model.projector.parameters())
        self.device, self.dtype = first.device, first.dtype
        self.normalize = Normalize(mean, std).to(self.device)
        self.pad = pad_token(tokenizer)
        lay_out(model.llm)
        self._identity: str | None = None

    def identity(self) -> str:
        """The name, and a digest of all weights, the template and the statistics of pixels."""
        if self._identity is None:
            by_tokenizer = isinstance(self.template, TokenizerTemplate)
            template = self.tokenizer.chat_template if by_tokenizer else repr(self.template)
            self._identity = f"{self.name}-{weights_digest(self.model, f'{template} {self.normalize.values}')}"
        return self._identity

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], writing: Writing) -> list[str]:
        batch, visual = self._prepare([(self.template.segments(r.conversation), r) for r in requests], writing.most)
        return [until_stop(text, self.template.stops) for text in self._write(batch, visual, writing)]

    @torch.inference_mode()
    def stream(self, request: Request, writing: Writing, write: Callable[[str], bool]) -> Written:
        """See `Answerer.stream`. Text that may be the beginning of a stop is held back until it is known."""
        pieces = Pieces(self.tokenizer, self.template.stops, write)
        batch, visual = self._prepare([(self.template.segments(request.conversation), request)], writing.most)
        self._write(batch, visual, writing, pieces)
        text = pieces.finish()
        ended = len(pieces.ids) < writing.most or pieces.ids[-1] in end_tokens(self.tokenizer, self.template.stops)
        return Written(text, len(pieces.ids), int(batch.lengths[0]), ended and pieces.goes_on)

    @torch.inference_mode()
    def likelihoods(self, request: Request, options: Sequence[str]) -> list[float]:
        asked = self.template.segments(request.conversation)
        rows = [([*asked, Segment(option, Role.ANSWER)], request) for option in options]
        batch, visual = self._prepare(rows, 0)
        logits = self.model.target_logits(batch, visual)
        targets = [labels[1:][labels[1:] != IGNORE_INDEX] for labels in batch.labels]
        return [mean_log_probability(*each) for each in zip(logits, targets, strict=True)]

    def _prepare(self, rows: Sequence[tuple[Sequence[Segment], Request]], new: int) -> tuple[ChatBatch, list[Tensor]]:
        """Conversations as a batch, and the visual tokens of all their clips."""
        context = context_of(self.model.llm)
        laid = [self._lay(segments, request) for segments, request in rows]
        made = [tokenize(seg, self.tokenizer, visual, None, None, context) for seg, visual, _ in laid]
        longest = max(len(tokens.ids) for tokens in made)
        if context is not None and longest + new > context:
            raise ValueError(
                f"a conversation of {longest} tokens and an answer of up to {new} exceed the language model's context "
                f"of {context}: ask for a shorter answer, or show fewer media or turns"
            )
        seen = self._look(list({id(request): request for _, request in rows}.values()))
        visual = [
            seen[id(request), place]
            for (_, request), (_, _, places) in zip(rows, laid, strict=True)
            for place in places
        ]
        nothing = torch.empty(0, width_of(self.model.llm), device=self.device)
        return collate(made, self.pad).to(self.device), visual or [nothing]

    def _lay(self, segments: Sequence[Segment], request: Request) -> tuple[list[Segment], list[int], list[str]]:
        """Segments of a request, the visual tokens of each of their places, and what is there, by names of `_look`."""
        clips = [self._places(clip) for clip in request.clips]
        names = [f"clip {i}" for i in range(len(clips))]
        if not request.regions:
            return list(segments), clips, names
        made, order = region_places(segments)
        media = iter(zip(clips, names, strict=True))
        places = [next(media) if region < 0 else (1, f"region {region}") for region in order]
        return made, [count for count, _ in places], [name for _, name in places]

    def _places(self, clip: Tensor) -> int:
        """Visual tokens of a clip `[C, T, H, W]`."""
        views = 1 if self.tiles is None else clip.shape[2] * clip.shape[3] // self.size**2 + 1
        return views * self.model.visual_tokens_of_video

    def _look(self, requests: Sequence[Request]) -> dict[tuple[int, str], Tensor]:
        """Visual tokens `[Q, D]`, of tiles `[n * Q, D]`, of regions `[1, D]`, by request and `clip I` or `region R`.

        Clips of one shape with one instruction go through the encoder together, so that no text is padded: padding on
        the left would shift the places of its tokens. Equal clips, of questions about one video, go through it once.
        """
        groups: dict[tuple[tuple[int, ...], str], list[tuple[Request, int]]] = {}
        for request in requests:
            text = request.instruction
            text = self.template.qformer_text(request.conversation) if text is None else text
            for i, clip in enumerate(request.clips):
                groups.setdefault((tuple(clip.shape), text), []).append((request, i))
        found: dict[tuple[int, str], Tensor] = {}
        for (_, text), members in groups.items():
            clips = torch.stack([request.clips[i] for request, i in members]).to(self.device)
            firsts, own = distinct(clips)
            video = self.normalize(clips[firsts]).to(self.dtype)  # [V, C, T, H, W]
            ids = self._instruction(text)
            rows = None if ids is None else ids.expand(len(video), -1)  # [V, l]
            names = [(id(request), f"clip {i}") for request, i in members]
            if self.tiles is not None:
                seen = self.model.tile_tokens(video, rows)
                found |= {name: seen[n] for name, n in zip(names, own, strict=True)}
                continue
            tokens = self.model.encode(video)  # [V, N, C]
            seen = self.model.read(tokens, rows)
            for name, (request, i), n in zip(names, members, own, strict=True):
                found[name] = seen[n]
                if request.regions:
                    found |= self._look_at_regions(request, i, tokens[n])
        return found

    def _look_at_regions(self, request: Request, clip: int, tokens: Tensor) -> dict[tuple[int, str], Tensor]:
        """Tokens `[1, D]` of one clip's regions, of the encoder's tokens `[N, C]`, by the names of `_look`."""
        covers = request.regions[clip]
        if covers is None:
            return {}
        first = sum(len(each) for each in request.regions[:clip] if each is not None)
        rows, columns = self.model.encoder.grid[1:]
        covered = coverage(covers, (len(tokens) // (rows * columns), rows, columns)).to(self.device)
        regions = self.model.region_tokens(tokens[None], covered[None])[0]  # [R, D]
        return {(id(request), f"region {first + i}"): each[None] for i, each in enumerate(regions)}

    def _instruction(self, text: str) -> Tensor | None:
        """Token ids `[1, l]` of what the Q-Former reads."""
        if self.reader is None:
            return None
        (ids,) = self.reader([text])
        return ids[ids != self.reader.pad][None].to(self.device)

    def _write(self, batch: ChatBatch, visual: list[Tensor], writing: Writing, streamer: Any = None) -> list[str]:
        """New text of each conversation, with what follows a stop."""
        ends = end_tokens(self.tokenizer, self.template.stops)
        stops: list[Any] = [Stops(self.tokenizer, self.template.stops)]
        if streamer is not None:
            stops.append(streamer.stopped)
        how = {
            "eos_token_id": ends or None,
            "stopping_criteria": stops,
            "streamer": streamer,
            **sampling(writing, self.tokenizer),
        }
        ids = self.model.generate(batch, visual, self.pad, **how)
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)


def distinct(clips: Tensor) -> tuple[list[int], list[int]]:
    """Of clips `[V, ...]`, the places of those that differ from all before them; and of each, which of these it is."""
    sums = clips.flatten(1).sum(dim=1, dtype=torch.int64).tolist()
    firsts: list[int] = []
    own = []
    for i, clip in enumerate(clips):
        same = [n for n, j in enumerate(firsts) if sums[j] == sums[i] and torch.equal(clips[j], clip)]
        own += same or [len(firsts)]
        firsts += [] if same else [i]
    return firsts, own


def sampling(writing: Writing, tokenizer: Any) -> dict[str, Any]:
    """Options of transformers' `generate`, of one conversation if it has a schema; seeds torch where it draws."""
    options: dict[str, Any] = {"max_new_tokens": writing.most, "do_sample": writing.temperature > 0, "num_beams": 1}
    if writing.temperature > 0:
        torch.manual_seed(writing.seed)
        options |= {"temperature": writing.temperature, "top_p": writing.top_p, "top_k": 0}
    if writing.schema is not None:
        options["logits_processor"] = [Structured(tokenizer, writing.schema)]
    return options


def mean_log_probability(logits: Tensor, targets: Tensor) -> float:
    """Of target tokens `[k]`, given the logits `[k, V]` of the places before them.

    Raises:
        ValueError: there is no target.
    """
    if not len(targets):
        raise ValueError("an option has no token: its likelihood is not defined")
    return logits.float().log_softmax(-1).gather(1, targets[:, None]).mean().item()


def weights_digest(model: nn.Module, more: str = "") -> str:
    """Of all parameters, and of what else decides on answers; it takes seconds for billions of parameters."""
    digest = hashlib.blake2b(more.encode(), digest_size=8)
    for name, tensor in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
