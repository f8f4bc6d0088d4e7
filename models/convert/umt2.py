"""Names of the weights of UMT's second stage: the official repository's (multi modality), against ours.

Ours: `encoder.*` (VideoViT), `decoder.*` (FeatureDecoder), `text.*` (Bert), their projections and heads, and
`answer_decoder.*` (a causal Bert). Official files contain the teacher too, here `teacher.*`: an objective does not
register its teacher, so these count as unused, but a `CLIPVision` loads them.
"""

from collections.abc import Mapping

from torch import Tensor

from models.convert import bert, clip
from models.convert.rules import Rules, prefixed, to_theirs, with_suffixes
from models.convert.videomae import official_encoder

_VISION: Rules = {
    **official_encoder("vision_encoder.encoder."),
    **with_suffixes(
        {
            "decoder.heads.{i}": "vision_encoder.clip_decoder.{i}.head",
            "decoder.norms.{i}": "vision_encoder.clip_decoder.{i}.norm",
            "pool_norm": "vision_encoder.pool_norm",
        }
    ),
}
_SHARED: Rules = {
    "temperature": "temp",
    **with_suffixes({"video_proj": "vision_proj", "text_proj": "text_proj", "match_head": "itm_head"}),
}

# unmasked_teacher `multi_modality/models/umt.py`: pretraining, with the head for masked tokens.
OFFICIAL: Rules = {
    **_VISION,
    **_SHARED,
    **bert.tower("text.", "text_encoder.bert."),
    **bert.head("text.", "text_encoder."),
    **prefixed(clip.openai_vision("clip_teacher."), "teacher."),
}

# Fine-tuned for retrieval, and `umt_qa.py`: a text tower without a head; for questions also a decoder of answers.
OFFICIAL_TUNED: Rules = {
    **_VISION,
    **_SHARED,
    **bert.tower("text.", "text_encoder."),
    **bert.tower("answer_decoder.", "text_decoder.bert."),
    **bert.head("answer_decoder.", "text_decoder."),
}


def to_official(state: Mapping[str, Tensor], tuned: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """Our state dict in the official layout, and those of our names that it does not have.

    Args:
        tuned: the layout of fine-tuning for retrieval or questions, instead of pretraining's.
    """
    theirs, unknown = to_theirs(OFFICIAL_TUNED if tuned else OFFICIAL, state)
    return {**theirs, **bert.tied_copies(theirs)}, unknown


def init_answer_decoder(
    ours: dict[str, Tensor], origin: dict[str, tuple[str, ...]], target: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Adds weights of an answer decoder, if the model (`target`) has one and the checkpoint does not.

    They are copies of the text tower's layers with cross-attention, its embeddings and its head (official
    `tasks/vqa.py`).
    """
    if not any(name.startswith("answer_decoder.") for name in target):
        return ours, origin
    if any(name.startswith("answer_decoder.") for name in ours):
        return ours, origin
    lowest = min((_block(name) for name in ours if name.startswith("text.blocks.") and ".cross." in name), default=None)
    if lowest is None:
        return ours, origin
    copies = {}  # name in the decoder: name in the text tower
    for name in ours:
        if name.startswith("text.blocks.") and _block(name) >= lowest:
            rest = name.removeprefix("text.blocks.").partition(".")[2]
            copies[f"answer_decoder.blocks.{_block(name) - lowest}.{rest}"] = name
        elif name.startswith("text.") and not name.startswith("text.blocks."):
            copies[f"answer_decoder.{name.removeprefix('text.')}"] = name
    first = "answer_decoder.blocks.0.cross.kv.weight"
    if first in target and first in copies and target[first].shape != ours[copies[first]].shape:
        copies = {copy: name for copy, name in copies.items() if ".cross.kv." not in copy}
    tensors = {copy: ours[name] for copy, name in copies.items()}
    return {**ours, **tensors}, {**origin, **{copy: origin[name] for copy, name in copies.items()}}


def _block(name: str) -> int:
    return int(name.removeprefix("text.blocks.").partition(".")[0])
