"""Names of the unmasked teacher's weights: the official repository's (single modality), against ours.

Ours: `encoder.*` (VideoViT) and `decoder.*` (FeatureDecoder). Its classifier has the names of VideoMAE V2.
"""

from models.convert.rules import Rules, with_suffixes
from models.convert.videomae import official_encoder

# unmasked_teacher `single_modality/models/modeling_pretrain.py`: student and linear decoders.
OFFICIAL_PRETRAIN: Rules = {
    **official_encoder("encoder."),
    **with_suffixes({"decoder.heads.{i}": "clip_decoder.{i}.head", "decoder.norms.{i}": "clip_decoder.{i}.norm"}),
}
