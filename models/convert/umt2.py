"""Names of the weights of UMT's second stage: the official repository's (multi modality), against ours.

Ours: `encoder.*` (VideoViT), `decoder.*` (FeatureDecoder), `text.*` (Bert), what joins them, and `answer_decoder.*` (a
Bert that writes answers). The teacher that official files hold too is `teacher.*`: an objective does not own its
teacher, so it counts as not used, but a `CLIPVision` takes it.
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
_JOINED: Rules = {
    "temperature": "temp",
    **with_suffixes({"video_proj": "vision_proj", "text_proj": "text_proj", "match_head": "itm_head"}),
}

# unmasked_teacher `multi_modality/models/umt.py`: pretraining, with the head that guesses words.
OFFICIAL: Rules = {
    **_VISION,
    **_JOINED,
    **bert.tower("text.", "text_encoder.bert."),
    **bert.head("text.", "text_encoder."),
    **prefixed(clip.openai_vision("clip_teacher."), "teacher."),
}

# The same, fine-tuned for retrieval, and `umt_qa.py`: a text tower without a head; a second tower writes answers.
OFFICIAL_TUNED: Rules = {
    **_VISION,
    **_JOINED,
    **bert.tower("text.", "text_encoder."),
    **bert.tower("answer_decoder.", "text_decoder.bert."),
    **bert.head("answer_decoder.", "text_decoder."),
}


def to_official(state: Mapping[str, Tensor], tuned: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """Our state dict as the official code saves its own, and our names that have no place there.

    Args:
        tuned: as after fine-tuning for retrieval or questions, not as after pretraining.
    """
    theirs, unknown = to_theirs(OFFICIAL_TUNED if tuned else OFFICIAL, state)
    return {**theirs, **bert.repeats(theirs)}, unknown


def start_answers(
    ours: dict[str, Tensor], origin: dict[str, tuple[str, ...]], target: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """For a model that answers, from weights of one that does not: the writer starts as the text tower's upper layers
    do, those that look at the video, with its tables and its head (official `tasks/vqa.py`)."""
    if not any(name.startswith("answer_decoder.") for name in target):
        return ours, origin
    if any(name.startswith("answer_decoder.") for name in ours):
        return ours, origin
    below = min((_number(name) for name in ours if name.startswith("text.blocks.") and ".cross." in name), default=None)
    if below is None:
        return ours, origin
    more = {}
    for name in ours:
        if name.startswith("text.blocks.") and _number(name) >= below:
            rest = name.removeprefix("text.blocks.").partition(".")[2]
            more[f"answer_decoder.blocks.{_number(name) - below}.{rest}"] = name
        elif name.startswith("text.") and not name.startswith("text.blocks."):
            more[f"answer_decoder.{name.removeprefix('text.')}"] = name
    first = "answer_decoder.blocks.0.cross.kv.weight"
    if first in target and first in more and target[first].shape != ours[more[first]].shape:
        more = {m: n for m, n in more.items() if ".cross.kv." not in m}
    return {**ours, **{m: ours[n] for m, n in more.items()}}, {**origin, **{m: origin[n] for m, n in more.items()}}


def _number(name: str) -> int:
    return int(name.removeprefix("text.blocks.").partition(".")[0])
