"""Converse: a language model learns to answer about videos, as VideoChat (arXiv 2305.06355) and VideoChat2 (arXiv
2311.17005) in the stages that connect it to a video encoder and tune it by instructions.

Letters in shapes: B conversations, V videos, L tokens, Q visual tokens of a video or a view.
"""

import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.chat.conversation import IGNORE_INDEX, ChatBatch, collate, pack
from models.chat.language_model import context_of
from models.chat.qformer import QFormer
from models.chat.templates import ChatTemplate
from models.chat.token_merger import TokenMerger
from models.chat.videochat import VideoChat
from models.encoder import Encoder
from models.tokenizers import BertTokenizer
from pretrain.learning.batch import Batch
from pretrain.learning.chat_rows import ChatRows, Row, TemplateName, tokens_of
from pretrain.learning.contrast import global_masked_mean
from pretrain.learning.language import Language, leave_out_frozen
from pretrain.learning.lora import train_only
from pretrain.learning.transfer import to_device
from pretrain.learning.two_towers import first_frame_if_static
from pretrain.objectives.objective import Objective

log = logging.getLogger(__name__)


class Converse(Objective):
    """A video encoder, a Q-Former, a projector and a language model, by the next-token loss of answers.

    One method for all stages: captions (`text` of a batch) connect the parts, conversations (`chat`) tune them. Texts
    become token ids in the loading processes. The loss is the mean over the targets of all ranks.

    A checkpoint holds all but the language model's frozen parameters, and their hash: it loads only beside the same
    language model.

    Args:
        encoder: of videos, without a final norm.
        qformer: reads the encoder's tokens and, if it has a text branch and there is a `reader`, the instruction; or a
            `TokenMerger`, which leaves so many tokens of each frame.
        language: the language model. It is frozen except LoRA, unless `trained` names it.
        template: of conversations; `tokenizer`: the one that the tokenizer carries.
        reader: tokenizer of the Q-Former's text.
        queries, extra_queries, norm_eps, constant_bos: see `VideoChat`.
        trained: regular expressions; parameters of the model whose names match none are frozen. None: all but the
            language model's.
        limit, answer_limit: of the tokens of a conversation besides the visual ones, and of a caption. What they cut
            is counted (`cut`, tokens a conversation).
        prompts, image_prompts: before a caption, one at random.
        times: tell the language model when the frames were taken.
        learn_markers, ignore_pad_targets: see `ChatRows`.
        tiles: cut frames in tiles of the encoder's size, each seen as a video, and the whole (VideoChat2-HD).
        images: batches whose clips all stand still become images of one frame.
        packed: put the conversations of a micro-batch into one row without padding.
        regions: `<obj1>`, ... in questions are places of region tokens: the mean of the encoder's tokens under the mask
            that the data give, projected (see `models/chat/regions.py`).
        missing, unused: patterns of names (ours, and the checkpoints') that `weights` may lack together, and that each
            may have too much; null: any, which is only reported.
        skip: patterns of names of the checkpoints that `weights` does not take: a projector to a language model of
            another width.
        base: see `Objective`.
    """

    def __init__(
        self,
        encoder: Encoder,
        qformer: QFormer | TokenMerger,
        language: Language,
        template: TemplateName = "mistral",
        reader: BertTokenizer | None = None,
        queries: int = 32,
        extra_queries: int = 64,
        norm_eps: float | None = 1e-12,
        constant_bos: bool = False,
        trained: list[str] | None = None,
        limit: int | None = 512,
        answer_limit: int | None = None,
        prompts: list[str] | None = None,
        image_prompts: list[str] | None = None,
        times: bool = False,
        learn_markers: bool = False,
        ignore_pad_targets: bool = False,
        tiles: bool = False,
        images: bool = False,
        packed: bool = False,
        regions: bool = False,
        missing: list[str] | None = None,
        unused: list[str] | None = None,
        skip: list[str] | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if reader is not None and not qformer.text:
            raise ValueError(
                "the Q-Former has no text branch to read instructions with: give it text: true, or no reader"
            )
        llm = language.build()
        self.model = VideoChat(encoder, qformer, llm, queries, extra_queries, norm_eps, constant_bos, regions)
        if regions and tiles:
            raise ValueError("regions are of whole frames: set tiles or regions to false")
        if trained is not None:
            train_only(self.model, trained)
        if (
            isinstance(qformer, QFormer) and qformer.text and qformer.head is None
        ):  # nothing reads the text's last outputs
            last = qformer.layers[-1]
            last.intermediate.requires_grad_(False)
            last.output.requires_grad_(False)
        if qformer.text and reader is None:
            raise ValueError("the Q-Former's text branch would not be trained without a reader: give it text: false")
        leave_out_frozen(llm)
        self.row_encoder = ChatRows(
            language,
            template,
            self.model.visual_tokens_of_video,
            encoder.size if tiles else None,
            reader,
            limit,
            answer_limit,
            context_of(llm),
            prompts,
            image_prompts,
            times,
            learn_markers,
            ignore_pad_targets,
            encoder.grid if regions else None,
        )
        if packed and not self.model.attends_in_rows:
            raise ValueError(
                f"{type(llm).__name__} cannot attend within the parts of a packed row: set packed to false"
            )
        self.tiles, self.images, self.packed = tiles, images, packed
        self.figures = frozenset({"cut", "exact"})
        self.may_lack, self.may_leave, self.skips = missing, unused, skip or []
        self.conversations_cut = 0

    @property
    def tokenizer(self) -> Any:
        """The language model's."""
        return self.row_encoder.tokenizer

    @property
    def template(self) -> ChatTemplate:
        """Of conversations."""
        return self.row_encoder.chat_template

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`answer`, the loss; `cut`, tokens a conversation that the limits removed; in evaluation `exact`, the share of
        conversations whose every target is the likeliest token."""
        rows = self.rows(batch)
        chat = self.chat_batch(rows)
        error, right, counted = self.token_errors(batch, rows, chat)
        losses = {"answer": global_masked_mean(error, counted, not self.training)}
        losses["cut"] = torch.tensor(float(sum(int(row["cut"]) for row in rows)) / len(rows))
        if not self.training:
            losses["exact"] = self.exact(chat, right, counted).mean()
        return losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`exact` `[B]`: whether every target of a conversation is the likeliest token, which is whether greedy
        generation writes its answers; `loss` `[B]`: the mean over its targets."""
        rows = self.rows(batch)
        chat = self.chat_batch(rows, packed=False)
        error, right, counted = (x.view(len(rows), -1) for x in self.token_errors(batch, rows, chat))
        loss = (error * counted).sum(1) / counted.sum(1).clamp(min=1)
        return {"exact": self.exact(chat, right, counted), "loss": loss}

    def token_errors(self, batch: Batch, rows: Sequence[Row], chat: ChatBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Of each place of a row before a target of some row, flat: the cross entropy of the next token, whether it is
        the likeliest, and 1.0 where it is a target."""
        places = chat.before_targets
        assert places is not None  # `chat_batch` knows them
        visual = self.visual_tokens(batch["video"], rows)
        logits = self.model.logits(chat, visual, places).flatten(
            0, 1
        )  # the others cost as much as a small model's layers
        targets = chat.labels[:, places + 1].flatten()
        error = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX, reduction="none")
        return error, logits.detach().argmax(dim=1) == targets, (targets != IGNORE_INDEX).float()

    def exact(self, chat: ChatBatch, right: Tensor, counted: Tensor) -> Tensor:
        """1.0 for each row (of a packed batch: the row) without a wrong target, `[B]`."""
        wrong = (~right.flatten()).float() * counted.flatten()
        return (wrong.view(len(chat.ids), -1).sum(dim=1) == 0).float()

    def visual_tokens(self, video: Tensor, rows: Sequence[Row]) -> Tensor | list[Tensor]:
        """Visual tokens of videos `[V, C, T, H, W]`, in order: `[V, Q, D]`, or of tiles `[n * Q, D]` each."""
        video, reads = self.normalize(video), self.read_ids(rows)
        if self.tiles:
            return self.model.tile_tokens(list(video), *reads)
        if self.row_encoder.grid is not None:
            return self.with_regions(self.model.encode(video), rows, reads)
        return self.model.visual_tokens(video, *reads)

    def with_regions(
        self, tokens: Tensor, rows: Sequence[Row], reads: tuple[Tensor | None, Tensor | None]
    ) -> list[Tensor]:
        """Visual tokens of videos and regions in the order of their places, of the encoder's tokens `[V, N, C]`."""
        seen = self.model.read(tokens, *reads)  # [V, Q, D]
        given = [torch.as_tensor(row["regions"]) if "regions" in row else tokens.new_zeros(0, 1).cpu() for row in rows]
        most = max(len(each) for each in given)
        if most == 0:
            return list(seen)
        covered = torch.zeros(len(rows), most, tokens.shape[1])
        for i, each in enumerate(given):
            covered[i, : len(each)] = each
        regions = self.model.region_tokens(tokens, to_device(covered, self.device))  # [V, R, D]
        orders = [row["order"].tolist() if "order" in row else [-1] for row in rows]
        return [seen[i] if n < 0 else regions[i, n : n + 1] for i, order in enumerate(orders) for n in order]

    def read_ids(self, rows: Sequence[Row]) -> tuple[Tensor | None, Tensor | None]:
        """What the Q-Former reads, `[V, l]`, padded on the right, and False at the padding; None: nothing."""
        reader = self.row_encoder.reader
        if reader is None:
            return None, None
        read = [torch.as_tensor(row["reads"]) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(read, batch_first=True)  # any token: padding is invisible
        visible = torch.nn.utils.rnn.pad_sequence([torch.ones_like(x).bool() for x in read], batch_first=True)
        return to_device(ids, self.device), to_device(visible, self.device)

    def rows(self, batch: Batch) -> Sequence[Row]:
        """The rows that the loading processes made, or made here of the texts."""
        fields = cast(Any, batch)
        if "chat" in fields:
            return fields["chat"]
        if "text" not in fields:
            raise ValueError("a chat model learns from conversations or captions, and the data have neither")
        count, size = len(batch["text"]), tuple(batch["video"].shape[3:])
        draws = [self.derive_seed(place) for place in self.places(count).tolist()] if self.training else [None] * count
        texts = [text if isinstance(text, str) else text[0] for text in batch["text"]]
        return [self.row_encoder.row([], text, size=size, draw=draw) for text, draw in zip(texts, draws, strict=True)]

    def chat_batch(self, rows: Sequence[Row], packed: bool | None = None) -> ChatBatch:
        """The rows as a batch on the device, packed or padded."""
        tokens = [tokens_of(row) for row in rows]
        packed = (self.packed and self.training) if packed is None else packed
        made = pack(tokens) if packed else collate(tokens, 0)  # any token: no target and seen by none
        return made.moved(lambda x: to_device(x, self.device))

    def on_host(self, batch: Batch) -> Batch:
        """Counts and names conversations that the limits cut; batches of images become clips of one frame. Rows stay on
        the host, which pads or packs them."""
        chat = [{key: np.asarray(value) for key, value in row.items()} for row in cast(Any, batch).get("chat") or []]
        if chat:
            batch = cast(Batch, {**batch, "chat": chat})
        for name, row in zip(batch["name"], chat, strict=False):
            if int(row["cut"]):
                self.conversations_cut += 1
                if str(self.conversations_cut).strip("0") == "1":  # the first, the tenth, the hundredth, ...
                    log.warning(
                        "%d tokens of a conversation about %s are beyond the limit and cut (%d conversations so far)",
                        int(row["cut"]),
                        name,
                        self.conversations_cut,
                    )
        if not self.images:
            return batch
        return {**batch, "video": first_frame_if_static(batch["video"], not self.training)}
