"""VideoChat and VideoChat2: a video encoder, a Q-Former, a projector and a language model.

Notable: one composition serves all stages and releases. Visual tokens replace the embeddings at given places, so that
several videos, tiles of different numbers and packed conversations need nothing more.

Letters in shapes: V videos, N video tokens, Q queries, B conversations, L tokens, S visual tokens of a batch, D the
language model's width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.chat.conversation import IGNORE_INDEX, ChatBatch
from models.chat.decoding import greedy
from models.chat.growing_cache import growing_cache
from models.chat.language_model import embeddings_of, label_loss, target_loss, width_of
from models.chat.qformer import QFormer
from models.chat.regions import region_means
from models.chat.row_attention import row_options, use_row_attention
from models.chat.shared_prefix import pack_shared
from models.chat.tiles import split_tiles
from models.chat.token_merger import TokenMerger
from models.encoder import Encoder


class VideoChat(nn.Module):
    """Answers of a language model to questions about videos.

    Args:
        encoder: VideoChat's `VideoChatViT`, VideoChat2's `VideoViT` without a final norm and without its last block,
            or any other.
        qformer: reads the encoder's tokens; its text branch, if it has one, reads the instruction. A `TokenMerger` has
            no queries, and an MLP of two layers projects its tokens.
        llm: a causal language model of transformers, with LoRA or not. It is frozen except LoRA's weights.
        queries: learnt in the first stage.
        extra_queries: added in later stages, initially 0.
        norm_eps: of the LayerNorm after the encoder (VideoChat2: 1e-12; VideoChat: 1e-5); None: no norm.
        regions: it has a projector for region tokens, see `models/chat/regions.py`.
        constant_bos: the first embedding has the start token's number in every channel, as in VideoChat2's third stage,
            instead of the start token's embedding.

    Raises:
        ValueError: the Q-Former attends to another width than the encoder's.
    """

    def __init__(
        self,
        encoder: Encoder,
        qformer: QFormer | TokenMerger,
        llm: nn.Module,
        queries: int = 32,
        extra_queries: int = 64,
        norm_eps: float | None = 1e-12,
        constant_bos: bool = False,
        regions: bool = False,
    ) -> None:
        super().__init__()
        if qformer.source != encoder.width:
            raise ValueError(
                f"the Q-Former attends to {qformer.source} channels (source), and the encoder has {encoder.width}"
            )
        self.encoder, self.qformer, self.llm, self.constant_bos = encoder, qformer, llm, constant_bos
        self.attends_in_rows = use_row_attention(llm)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(encoder.width, norm_eps)
        width = width_of(llm)
        self.queries = self.extra_queries = None
        self.projector: nn.Module = nn.Linear(qformer.width, width)
        if isinstance(qformer, TokenMerger):
            self.projector = nn.Sequential(nn.Linear(qformer.width, width), nn.GELU(), nn.Linear(width, width))
        else:
            self.queries = nn.Parameter(torch.empty(queries, qformer.width))
            self.extra_queries = nn.Parameter(torch.empty(extra_queries, qformer.width)) if extra_queries else None
        self.region_projector = nn.Linear(encoder.width, width) if regions else None
        for name, parameter in llm.named_parameters():
            parameter.requires_grad_("lora_" in name)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.queries is not None:
            nn.init.normal_(self.queries, std=0.02)
        if self.extra_queries is not None:
            nn.init.zeros_(self.extra_queries)

    @property
    def visual_tokens_of_video(self) -> int:
        """Tokens of a video, or of a tile, in the language model."""
        return self.qformer.tokens_of_video if isinstance(self.qformer, TokenMerger) else len(self.all_queries())

    def all_queries(self) -> Tensor:
        """The queries and the extra ones, `[Q, D]`."""
        assert self.queries is not None  # a Q-Former's
        return self.queries if self.extra_queries is None else torch.cat((self.queries, self.extra_queries))

    def visual_tokens(
        self, video: Tensor, instruction: Tensor | None = None, instruction_visible: Tensor | None = None
    ) -> Tensor:
        """Visual tokens of videos `[V, C, T, H, W]` (normalised), `[V, Q, D]`.

        Args:
            instruction: ids of the Q-Former's tokenizer, `[V, l]`. It must not contain the answer.
            instruction_visible: False at its padding, `[V, l]`.
        """
        return self.read(self.encode(video), instruction, instruction_visible)

    def encode(self, video: Tensor) -> Tensor:
        """The encoder's tokens of videos `[V, C, T, H, W]`, normalised, `[V, N, C]`."""
        return self.norm(self.encoder(video))

    def read(
        self, tokens: Tensor, instruction: Tensor | None = None, instruction_visible: Tensor | None = None
    ) -> Tensor:
        """Visual tokens `[V, Q, D]` of the encoder's `[V, N, C]`; see `visual_tokens`."""
        if isinstance(self.qformer, TokenMerger):
            return self.projector(self.qformer(tokens))
        queries = self.all_queries()
        read = self.qformer(queries, tokens, instruction, instruction_visible)
        return self.projector(read[:, : len(queries)])

    def region_tokens(self, tokens: Tensor, covered: Tensor) -> Tensor:
        """Tokens of regions `[V, R, D]`, of the encoder's `[V, N, C]` and what each region covers, `[V, R, N]`.

        Raises:
            ValueError: the model was made without them.
        """
        if self.region_projector is None:
            raise ValueError("the model has no projector of regions: make it with regions: true")
        return self.region_projector(region_means(tokens, covered))

    def tile_tokens(
        self,
        videos: Sequence[Tensor],
        instruction: Tensor | None = None,
        instruction_visible: Tensor | None = None,
        whole: bool = True,
    ) -> list[Tensor]:
        """Visual tokens of each video's tiles and of its whole view, in that order, `[n * Q, D]` each (VideoChat2-HD).

        Args:
            videos: `[C, T, H, W]` each, of a size that is a multiple of the encoder's.
            instruction, instruction_visible: a row a video, see `visual_tokens`; each view reads it.
            whole: add the view of the whole frame.
        """
        found = []
        for i, video in enumerate(videos):
            views = split_tiles(video.transpose(0, 1), self.encoder.size, whole).transpose(
                1, 2
            )  # [n, C, T, size, size]
            rows = [None if x is None else x[i].expand(len(views), -1) for x in (instruction, instruction_visible)]
            found.append(self.visual_tokens(views, *rows).flatten(0, 1))
        return found

    def embed(self, batch: ChatBatch, visual: Tensor | Sequence[Tensor]) -> Tensor:
        """Input embeddings `[B, L, D]` with the visual tokens in their places.

        Args:
            visual: all visual tokens in order: `[V, Q, D]`, or a sequence of `[n, D]`.

        Raises:
            ValueError: another number of visual tokens than of places.
        """
        tokens = visual.flatten(0, 1) if isinstance(visual, Tensor) else torch.cat(list(visual))  # [S, D]
        if len(tokens) != len(batch.slots):
            raise ValueError(
                f"{len(tokens)} visual tokens are given for {len(batch.slots)} places: count the media again"
            )
        embeds = embeddings_of(self.llm)(batch.ids)
        if self.constant_bos:
            first = torch.arange(batch.ids.shape[1], device=batch.ids.device)[None] == 0
            first = first if batch.packs is None else batch.packs.positions == 0
            embeds = torch.where(first[..., None], batch.ids[..., None].to(embeds.dtype), embeds)
        flat = embeds.flatten(0, 1).index_copy(0, batch.slots, tokens.to(embeds.dtype))
        return flat.view_as(embeds)

    def logits(self, batch: ChatBatch, visual: Tensor | Sequence[Tensor], places: Tensor | None = None) -> Tensor:
        """The language model's logits, `[B, L, V]`; with `places` int64 `[K]`, of these of all rows, `[B, K, V]`.

        Raises:
            ValueError: a packed batch, and a type of language model whose attention cannot be told of it.
        """
        embeds, llm = self.embed(batch, visual), self.llm
        if self.attends_in_rows:
            kept = {} if places is None else {"logits_to_keep": places}
            return llm(inputs_embeds=embeds, use_cache=False, **row_options(embeds, batch.packs), **kept).logits
        if batch.packs is not None:
            raise ValueError(
                f"{type(llm).__name__} cannot attend within the parts of a packed row: set packed to false"
            )
        logits = llm(inputs_embeds=embeds, use_cache=False).logits
        return logits if places is None else logits[:, places]

    def target_logits(self, batch: ChatBatch, visual: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Of each row, the logits of the places before its labels, `[k, V]`. What several rows begin with, such as a
        question before each of its options, is read once."""
        before = [(labels[1:] != IGNORE_INDEX).nonzero()[:, 0] for labels in batch.labels]
        if not self.attends_in_rows:
            return [row[places] for row, places in zip(self.logits(batch, visual), before, strict=True)]
        rows = zip(self.embed(batch, visual), batch.lengths.tolist(), strict=True)
        packed, packs = pack_shared([row[:length] for row, length in rows])
        starts = packs.bounds.tolist()
        kept = []
        for chain, places in zip(packs.chains, before, strict=True):
            where = [torch.arange(starts[i], starts[i + 1], device=places.device) for i in chain]
            kept.append(torch.cat(where)[places])
        options = {**row_options(packed, packs), "logits_to_keep": torch.cat(kept)}
        logits = self.llm(inputs_embeds=packed, use_cache=False, **options).logits[0]
        return list(logits.split([len(places) for places in kept]))

    def forward(self, batch: ChatBatch, visual: Tensor | Sequence[Tensor]) -> Tensor:
        """The loss of the batch's labels: the mean over all of its targets."""
        places = batch.before_targets
        if places is None:
            return label_loss(self.logits(batch, visual), batch.labels)
        return target_loss(self.logits(batch, visual, places), batch.labels[:, places + 1])

    def _read_prompts(self, embeds: Tensor, lengths: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of `generate`: keys and values of prompts `[B, L, D]`, padded on the left, and the way of decoding.

        All but each prompt's last token, which `generate` goes on from, are read as one packed row: without padding,
        and what several of them begin with, such as a system prompt and a video, once.
        """
        longest, llm = embeds.shape[1], self.llm
        room = longest + (options.get("max_new_tokens") or 0)
        if len(lengths) == 1 or min(lengths) < 2:
            return growing_cache(llm, room)
        row, packs = pack_shared([prompt[longest - n : -1] for prompt, n in zip(embeds, lengths, strict=True)])
        cache = growing_cache(llm, room, packs)
        llm(inputs_embeds=row, use_cache=True, logits_to_keep=1, **cache, **row_options(row, packs))
        is_greedy = options.get("do_sample") is False and options.get("num_beams", 1) == 1
        return {**cache, "custom_generate": greedy} if is_greedy and options.get("streamer") is None else cache

    @torch.no_grad()
    def generate(self, batch: ChatBatch, visual: Tensor | Sequence[Tensor], pad: int, **options: object) -> Tensor:
        """New token ids `[B, M]` after each conversation, by transformers' `generate`, padded with `pad`.

        The rows are aligned on the right, so that an answer does not depend on the lengths of the others.

        Args:
            options: of transformers' `GenerationConfig`, such as max_new_tokens, do_sample, eos_token_id, and its
                `streamer` and `stopping_criteria`.
        """
        embeds, length = self.embed(batch, visual), batch.ids.shape[1]
        shift = (torch.arange(length, device=embeds.device) - (length - batch.lengths[:, None])) % length  # [B, L]
        embeds = embeds.take_along_dim(shift[..., None], dim=1)
        mask = batch.attention_mask.take_along_dim(shift, dim=1)
        llm: Any = self.llm
        if self.attends_in_rows:  # other types may have other caches
            options |= self._read_prompts(embeds, batch.lengths.tolist(), options)
        return llm.generate(inputs_embeds=embeds, attention_mask=mask, pad_token_id=pad, **options)
