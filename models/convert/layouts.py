"""The layouts of checkpoints: each is recognised by one of its keys, and its tensors are renamed to our names."""

from torch import Tensor

from models.convert import bert, clip, internvideo, lavie, umt, umt2, viclip, videochat, videomae
from models.convert.rules import Rules, prefixed, to_ours

# What the model's names begin with in checkpoints that hold other parts besides: a loss, a teacher, an average.
_PARTS = ("model.", "module.", "net.", "network.", "backbone.", "student.", "_orig_mod.", "model.module.")
# What a `FrameEncoder`'s names begin with in our own checkpoints; what follows are another library's names.
FRAME_ENCODER = "encoder.backbone."
# Name of a layout, a key that identifies it, its rules (None: the names are ours). The first match is used.
_LAYOUTS: list[tuple[str, str, Rules | None]] = [
    ("official ViCLIP", "vision_encoder.temporal_positional_embedding", viclip.OFFICIAL),
    ("official UMT stage 2", "text_encoder.bert.embeddings.word_embeddings.weight", umt2.OFFICIAL),
    ("official UMT stage 2, fine-tuned", "text_encoder.embeddings.word_embeddings.weight", umt2.OFFICIAL_TUNED),
    ("BERT, transformers", "bert.embeddings.word_embeddings.weight", bert.TRANSFORMERS),
    ("BERT, transformers", "embeddings.word_embeddings.weight", bert.TRANSFORMERS_MODEL),
    ("official InternVideo", "clip.visual_proj", internvideo.OFFICIAL),
    ("official InternVideo, towers alone", "visual_proj", internvideo.OFFICIAL_BARE),
    ("official InternVideo, caption decoder alone", "visual_queries", internvideo.CAPTION),
    ("official UniFormerV2", "transformer.temporal_cls_token", internvideo.UNIFORMERV2),
    ("tubelet for transformers", "vision.time.table", viclip.EXPORTED),
    (
        "CLIP, OpenAI",
        "visual.conv1.weight",
        {**prefixed(clip.OPENAI, "encoder."), **clip.OPENAI_TEXT, "logit_scale": "logit_scale"},
    ),
    ("CLIP, OpenAI, vision alone", "conv1.weight", prefixed(clip.OPENAI_VISUAL, "encoder.")),
    ("CLIP, OpenAI, text alone", "token_embedding.weight", clip.OPENAI_TEXT),
    (
        "CLIP, transformers",
        "vision_model.embeddings.patch_embedding.weight",
        {**prefixed(clip.TRANSFORMERS, "encoder."), **clip.TRANSFORMERS_TEXT, "logit_scale": "logit_scale"},
    ),
    (
        "CLIP, transformers",
        "embeddings.patch_embedding.weight",
        prefixed(clip.TRANSFORMERS_MODEL, "encoder."),
    ),
    ("CLIP, transformers, text alone", "text_model.embeddings.token_embedding.weight", clip.TRANSFORMERS_TEXT),
    ("tubelet", "masked.encoder.patch_embed.proj.weight", None),
    ("tubelet", "norm_pre.weight", None),
    ("tubelet", "token_embed.weight", None),
    ("transformers", "videomae.embeddings.patch_embeddings.projection.weight", videomae.TRANSFORMERS),
    ("transformers", "embeddings.patch_embeddings.projection.weight", videomae.TRANSFORMERS_MODEL),
    ("official pretraining", "encoder_to_decoder.weight", videomae.OFFICIAL_PRETRAIN),
    ("official UMT pretraining", "clip_decoder.0.head.weight", umt.OFFICIAL_PRETRAIN),
    ("official fine-tuning", "patch_embed.proj.weight", videomae.OFFICIAL_FINETUNE),
    ("tubelet", "encoder.patch_embed.proj.weight", None),
    ("tubelet", "unet.conv_in.weight", None),
]


def by_our_names(theirs: dict[str, Tensor], where: str) -> tuple[str, dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """The layout's name, the tensors by our names, and the foreign names that each is made of.

    Args:
        theirs: a checkpoint's tensors.
        where: the checkpoint, for errors.

    Raises:
        ValueError: the keys are of no known layout.
    """
    known = _recognised(theirs)
    if known is not None:
        return known
    for prefix in _PARTS:
        part = {name.removeprefix(prefix): tensor for name, tensor in theirs.items() if name.startswith(prefix)}
        if part and (known := _recognised(part)):
            layout, ours, origin = known
            return layout, ours, {name: tuple(prefix + each for each in names) for name, names in origin.items()}
    raise ValueError(
        f"{where}: its keys are of no known layout (the first are {', '.join(list(theirs)[:4])}; "
        f"one of these was expected: {', '.join([*(key for _, key, _ in _LAYOUTS), lavie.KEY])})"
    )


def _recognised(theirs: dict[str, Tensor]) -> tuple[str, dict[str, Tensor], dict[str, tuple[str, ...]]] | None:
    """As `by_our_names`; None if the keys are of no known layout."""
    known = lavie.to_ours(theirs) or videochat.to_ours(theirs)
    if known is not None:
        return known
    if any(name.startswith(FRAME_ENCODER) for name in theirs):
        return "tubelet", dict(theirs), {name: (name,) for name in theirs}
    on_disk = {bert.on_disk_name(videomae.on_disk_name(name)): name for name in theirs}
    found = next(((layout, rules) for layout, key, rules in _LAYOUTS if key in on_disk), None)
    if found is None:
        return None
    layout, rules = found
    if rules is None:
        names = {videomae.our_scale_name(name): name for name in theirs}
        tensors = {our_name: theirs[name] for our_name, name in names.items()}
        return layout, tensors, {our_name: (name,) for our_name, name in names.items()}
    ours, origin = to_ours(rules, {name: theirs[real] for name, real in on_disk.items()})
    return layout, ours, {name: tuple(on_disk[part] for part in parts) for name, parts in origin.items()}
