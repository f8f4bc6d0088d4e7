"""Tubelet's processor of conversations about videos for transformers: copied beside weights; needs no Tubelet.

`AutoProcessor.from_pretrained(folder, trust_remote_code=True)` has `apply_chat_template` for messages whose content is
a text or a list of `{"type": "video"}`, `{"type": "image"}` and `{"type": "text", "text": ...}`; called with that text
and `videos` (paths or frames), it makes the model's input. The text is tokenised as in training: between the videos
each piece on its own.
"""

import functools
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

PLACE = "<visual>"  # of a video in a text


class TubeletChatProcessor(ProcessorMixin):
    """A tokenizer, a video processor, and word pieces for what the Q-Former reads.

    Args:
        visual_tokens: of a video in the language model.
        visual_token_id: their placeholder.
        pad_token_id: of the rows' padding, on the left.
        qformer_vocabulary: word pieces in the order of their ids; None: the Q-Former reads nothing.
        qformer_context: the most of them.
    """

    attributes = ["video_processor", "tokenizer"]  # noqa: RUF012 transformers' way
    video_processor_class = "AutoVideoProcessor"
    tokenizer_class = "AutoTokenizer"
    # transformers sets these
    video_processor: Any
    tokenizer: Any

    def __init__(
        self,
        video_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        visual_tokens: int = 96,
        visual_token_id: int = 0,
        pad_token_id: int = 0,
        qformer_vocabulary: list[str] | None = None,
        qformer_context: int = 512,
        **kwargs: Any,
    ) -> None:
        self.visual_tokens, self.visual_token_id, self.pad_token_id = visual_tokens, visual_token_id, pad_token_id
        self.qformer_vocabulary, self.qformer_context = qformer_vocabulary, qformer_context
        super().__init__(video_processor, tokenizer, chat_template=chat_template)

    def __call__(  # pyrefly: ignore[bad-override] of the mixin's many inputs only these
        self, text: Any = None, videos: Any = None, instruction: Any = "", images: Any = None, **_: Any
    ) -> BatchFeature:
        """The model's input.

        Args:
            text: one or several, from `apply_chat_template`, with `<visual>` for each video.
            videos: all videos in order, as paths or frames; images: the same as videos of one frame (uint8).
            instruction: what the Q-Former reads with each video: the system prompt (and for Vicuna's layout the first
                question after it); one for all or a list.
        """
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self._ids(each) for each in texts]
        length = max(map(len, rows))
        ids = torch.tensor([[self.pad_token_id] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        made = {"input_ids": ids, "attention_mask": mask}
        if images is not None:
            raise ValueError("pass images as videos of one frame, or repeated to a clip")
        if videos is not None:
            made["pixel_values"] = self.video_processor(videos).pixel_values
            if self.qformer_vocabulary is not None:
                count = len(made["pixel_values"])
                read = [instruction] * count if isinstance(instruction, str) else list(instruction)
                made |= self._reads(read)
        return BatchFeature(made)

    def _ids(self, text: str) -> list[int]:
        start = self.tokenizer.bos_token_id
        begins = start is None or text.startswith(self.tokenizer.bos_token)
        ids = [] if begins else [start]
        for i, piece in enumerate(text.split(PLACE)):
            ids += [self.visual_token_id] * self.visual_tokens if i else []
            ids += self.tokenizer(piece, add_special_tokens=False).input_ids if piece else []
        return ids

    def _reads(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Ids `[V, l]` for the Q-Former and their mask."""
        rows = [self._pieces.encode(text).ids for text in texts]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return {"qformer_input_ids": ids, "qformer_attention_mask": mask}

    @functools.cached_property
    def _pieces(self) -> Any:
        from tokenizers.implementations import BertWordPieceTokenizer

        pieces = BertWordPieceTokenizer({word: i for i, word in enumerate(self.qformer_vocabulary or [])})
        pieces.enable_truncation(self.qformer_context)
        return pieces

    def batch_decode(self, *args: Any, **options: Any) -> list[str]:
        """The tokenizer's."""
        return self.tokenizer.batch_decode(*args, **options)

    def decode(self, *args: Any, **options: Any) -> str:
        """The tokenizer's."""
        return self.tokenizer.decode(*args, **options)
