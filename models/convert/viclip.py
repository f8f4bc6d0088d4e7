"""Names of ViCLIP's weights: the official repository's, which its folders on the hub share, against ours.

Ours: `encoder.*` (ViCLIPVision), `text.*` (CLIPText) and `temperature`.
"""

from models.convert import clip
from models.convert.rules import Batched, Rules, prefixed

_VISION = prefixed(clip.openai_vision("vision_encoder."), "encoder.")
_TIME = {"encoder.time.table": Batched("vision_encoder.temporal_positional_embedding"), "temperature": "temp"}

# InternVideo1 `Pretrain/ViCLIP/models/viclip.py`.
OFFICIAL: Rules = {**_VISION, **_TIME, **clip.openai_text("text_encoder.")}

# `python -m pretrain export --to transformers`: our names, and transformers' for the text tower.
EXPORTED: Rules = {
    **{ours: ours.replace("encoder.", "vision.", 1) for ours in OFFICIAL if ours.startswith("encoder.")},
    **prefixed(clip.TRANSFORMERS_TEXT, "", "text."),
    "temperature": "temperature",
}
