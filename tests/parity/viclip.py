"""ViCLIP against the official code: towers, dropped tokens, whole model, inference, tokenizer."""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import models
from models.convert import clip as clip_names
from models.convert import viclip as names
from models.convert.rules import to_theirs
from models.tokenizers import CLIPTokenizer, clean_caption
from pretrain.learning.contrast import similarity
from pretrain.learning.masking import Random
from pretrain.learning.optim import ClampedAdamW
from pretrain.objectives import ViCLIP
from tests.parity import checks
from tests.parity.case import Case, Record
from tests.parity.masks import hidden_by
from tests.parity.schedules import NO_DECAY
from tests.parity.videomae import indices
from tests.parity.weights import check_gradients, load_whole

STORED = {"*.batch": "the inputs are stored", "loss": "a description: the sum of the features times `in/loss_weight`"}


def vision(c: Record) -> models.ViCLIPVision:
    sizes = c["width"], c["layers"], c["heads"], 4 * c["width"], c["patch"], 1, c["frames"], c["res"], c["out"]
    return models.ViCLIPVision(*sizes)


def text(c: Record) -> models.CLIPText:
    sizes = c["width"], c["layers"], c["heads"], 4 * c["width"], c["out"], c["vocab"], c["context"]
    return models.CLIPText(*sizes)


def vision_weights(case: Case) -> dict[str, Tensor]:
    return {f"vision_encoder.{name}": tensor for name, tensor in case.part("model").items()}


def official_index(grid: tuple[int, int, int]) -> Tensor:
    """The place of each of our tokens in the official order, in which a place's frames are next to each other."""
    t, h, w = grid
    return (torch.arange(h * w)[None] * t + torch.arange(t)[:, None]).flatten()


@checks(names=("viclip_vision*",), not_needed=STORED)
def vision_tower(case: Case) -> None:
    facts, video = case.facts, case["in/video_bcthw"]
    tower = load_whole(vision(facts["config"]), vision_weights(case))
    order, keep = official_index(tower.grid), None
    case.fact(facts, "tokens", len(order))
    if "masking_prob" in facts:
        # The official code drops the smallest noise, ours keeps it.
        noise = 1 - case["in/noise"].double()[:, order]
        keep = Random(facts["masking_prob"])(noise, tower.grid)
        dropped = hidden_by(keep, len(order))
        case.fact(facts, "dropped", int(dropped[0].sum()))
        case.equal("out/mask", lambda: dropped[:, order.argsort()])
    feature, tokens = tower.feature_and_tokens(video, keep)
    case.close("out/feat", feature)
    where = order.expand(len(tokens), -1) if keep is None else order[keep]
    if "out/tokens_ln_post" in case:
        patches = case["out/tokens_ln_post"][:, 1:]
        torch.testing.assert_close(
            tokens.take_along_dim(where.argsort(dim=1)[..., None], 1).detach(), patches, atol=2e-5, rtol=1e-4
        )
    case.close("out/feat_first_frame_only", lambda: tower.feature_and_tokens(video[:, :, :1])[0])
    if "in/loss_weight" in case:
        loss = (feature * case["in/loss_weight"]).sum()
        loss.backward()
        case.close("out/loss", loss)
        table = names.Batched(names.OFFICIAL["encoder.time.table"].removeprefix("vision_encoder."))
        check_gradients(case, tower, clip_names.openai_vision("") | {"time.table": table})


@checks(names=("viclip_text*",), not_needed=STORED)
def text_tower(case: Case) -> None:
    tower = load_whole(text(case.facts["config"]), case.part("model"))
    feature, tokens = tower(case["in/ids"])
    case.close("out/feat", feature)
    case.close("out/tokens_projected", lambda: tower.proj(tokens))
    if "in/loss_weight" in case:
        loss = (feature * case["in/loss_weight"]).sum()
        loss.backward()
        case.close("out/loss", loss)
        rules = {name.removeprefix("text."): their for name, their in clip_names.OPENAI_TEXT.items()}
        check_gradients(case, tower, rules)


@checks(names=("viclip_full*",), not_needed=STORED)
def full(case: Case) -> None:
    c = case.facts["config"]
    dropping = c.get("masking_prob", 0.0)
    model = ViCLIP(
        vision(c["vision"]),
        text(c["text"]),
        words=lambda ids: ids,
        mask=Random(dropping) if dropping else None,
        freeze_text=c["freeze_text"],
        temperature_min=c.get("temp_min", 0.01),
    )
    load_whole(model, case.part("model"))
    case.fact(c, "temp", model.temperature.item(), {"atol": 1e-7, "rtol": 1e-6})
    video, ids = case["in/video_btchw"].transpose(1, 2), case["in/ids"]
    if "out/mask" in case:
        dropped = case["out/mask"][:, official_index(model.encoder.grid)]
        keep = indices(~dropped)
        assert model.mask(torch.rand(dropped.shape), model.encoder.grid).shape == keep.shape
        model.visible_patches = lambda video: keep
    # Samples with one name are positives of each other.
    batch = {"video": video, "text": ids, "name": [str(i) for i in case["in/idx"].tolist()]}
    loss = model(batch)["contrast"]
    loss.backward()
    case.close("out/loss_vtc", loss)
    case.close("out/temp_after_clamp", model.temperature)
    check_gradients(case, model, names.OFFICIAL)
    check_trained(case, model)
    with torch.no_grad():
        feature, text_feature = model.encoder.feature_and_tokens(video)[0], model.text.feature(ids)
        case.close("out/vision_feat_test", feature)
        case.close("out/text_feat", text_feature)
        case.close("out/sims_test", similarity(feature, text_feature, 1.0))
        masked = model.encoder.feature_and_tokens(video, model.visible_patches(video))[0]
        case.close("out/sims_masked", similarity(masked, text_feature, 1.0))


def check_trained(case: Case, model: ViCLIP) -> None:
    """Which official parameters train, and which of the official exceptions from weight decay are ours too."""
    official = {name: next(iter(to_theirs(names.OFFICIAL, {name: p})[0])) for name, p in model.named_parameters()}
    trained = sorted(official[name] for name, p in model.named_parameters() if p.requires_grad)
    case.fact(case.facts, "n_trainable", len(trained))
    if "trainable" in case.facts:
        listed = case.facts["trainable"]
        case.fact(case.facts, "trainable", [*trained[: len(listed) - 1], "..."] if listed[-1] == "..." else trained)
    optim = ClampedAdamW(no_decay=NO_DECAY)
    parameters = dict(model.named_parameters())
    decaying = {theirs for name, theirs in official.items() if optim.decays(name, parameters[name])}
    # `text_encoder.token_embedding` is in the official list, and no parameter has that name: its weight decays.
    assert not decaying & set(case.facts.get("no_weight_decay", []))


@checks(names=("viclip_infer*",), not_needed=STORED)
def inference(case: Case) -> None:
    tower = load_whole(vision(case.facts["config"]), vision_weights(case))
    feature = F.normalize(tower.feature_and_tokens(case["in/video_btchw"].transpose(1, 2))[0], dim=-1)
    case.close("out/video_feat_unit", feature)
    if "in/text_feats_raw" in case:
        texts = F.normalize(case["in/text_feats_raw"], dim=-1)
        case.fact(case.facts["config"], "classes", len(texts))
        probabilities, labels = (100 * feature @ texts.t()).softmax(dim=-1).topk(min(5, len(texts)), dim=-1)
        case.equal("out/top5_labels", labels)
        case.close("out/top5_probs", probabilities)


@checks(names=("clip_tokenizer*",), not_needed={"rows.decoded": "nothing of ours turns ids into text"})
def tokenizer(case: Case) -> None:
    """Ids at each context, bare byte pairs and their text, cleaned captions, the vocabulary."""
    facts = case.facts
    for row in facts.get("rows", []):
        for key in row:
            if key.startswith("context"):
                context = int(key.removeprefix("context"))
                case.fact(row, key, CLIPTokenizer(context)([row["text"]])[0].tolist())
        if "bpe" in row:
            longest = len(row["bpe"]) + 2
            ids = CLIPTokenizer(longest)([row["text"]])[0].tolist()
            case.fact(row, "bpe", ids[1:-1])
    for row in facts.get("caption_cleaning", []):
        case.fact(row, "clean", clean_caption(row["raw"]))
    if cut := facts.get("caption_cleaning_max_len"):
        case.fact(cut, "clean", clean_caption(cut["raw"], cut["max_l"]))
    if vocab := facts.get("vocab"):
        import open_clip.tokenizer

        file = Path(open_clip.tokenizer.default_bpe())
        case.fact(vocab, "file", file.name)
        case.fact(vocab, "bytes", file.stat().st_size)
        case.fact(vocab, "md5", hashlib.md5(file.read_bytes()).hexdigest())
        ours = {"size": "vocabulary", "start": "start", "end": "end", "pad": "pad"}
        for key, name in ours.items():
            case.fact(vocab, key, getattr(CLIPTokenizer, name))
