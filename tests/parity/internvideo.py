"""InternVideo against the official code: both towers, contrast, captions, UniFormerV2's classifier, masks."""

import torch
import torch.nn.functional as F
from torch.testing import assert_close

import models
from models.convert import internvideo as names
from models.convert.rules import to_theirs
from pretrain.learning.masking import Random, RandomFrames, Tube
from pretrain.learning.text_masking import IGNORE_INDEX, caption_loss, choose_tokens, masked_labels, next_token_loss
from pretrain.objectives import InternVideo
from tests.parity import checks
from tests.parity.case import TABLE, Case, Record
from tests.parity.masks import hidden_by
from tests.parity.weights import check_gradients, load_whole

STORED = {"config.batch": "the inputs are stored"}


def tower(c: Record, out: int | None, **options) -> models.UniFormerV2:
    sizes = c["width"], c["layers"], c["heads"], 4 * c["width"], c["patch"], c["frames"], c["res"], out
    return models.UniFormerV2(*sizes, reads=sorted(c["return_list"]), **options)


@checks(names=("internvideo1_mm*",), not_needed=STORED)
def multimodal(case: Case) -> None:
    c, weights = case.facts["config"], case.part("model")
    sizes = c["t_width"], c["t_layers"], c["t_heads"], 4 * c["t_width"], c["embed"], c["vocab"], c["context"]
    text = models.CLIPText(*sizes, mask_token=True)
    model = load_whole(InternVideo(tower(c, c["embed"]), text, words=lambda ids: ids, hide=0.5), weights)
    back, unknown = to_theirs(names.OFFICIAL_BARE, model.state_dict())
    back = {name: tensor for name, tensor in back.items() if not name.startswith("normalize.")}
    assert back.keys() == weights.keys() and not [n for n in unknown if not n.startswith("normalize.")]
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())

    video, ids = case["in/video_bcthw"], case["in/ids"]
    model.eval()
    feature, tokens = model.encoder.feature_and_tokens(video)
    case.close("out/video_feat", feature)
    if "out/video_all_feats_lntc" in case:
        theirs = case["out/video_all_feats_lntc"].permute(1, 2, 0, 3)  # [B, t, 1 + n, D]
        assert_close(tokens.view_as(theirs), theirs, atol=2e-5, rtol=1e-4)
        assert_close(model.encoder(video), theirs[:, :, 1:].flatten(1, 2), atol=2e-5, rtol=1e-4)
    case.close("out/image_feat_first_frame", lambda: model.encoder.feature_and_tokens(video[:, :, :1])[0])
    text_feature, states = model.text(ids)
    case.close("out/text_feat", text_feature)
    case.close("out/text_all_feats", states)
    if "in/text_mask" in case:
        masked = model.text(ids, case["in/text_mask"])
        case.close("out/text_feat_masked", masked[0])
        case.close("out/text_all_feats_masked", masked[1])
    scale = weights["logit_scale"].exp()
    if "logit_scale" in c:
        case.fact(c, "logit_scale", weights["logit_scale"].item(), {"atol": 1e-6, "rtol": 1e-6})
    logits = scale * F.normalize(feature, dim=-1) @ F.normalize(text_feature, dim=-1).t()
    case.close("out/image_logits", logits)  # of the video, in spite of the official name

    loss = model({"video": video, "text": ids, "name": [str(i) for i in range(len(ids))]})["contrast"]
    case.close("out/contrastive_loss", loss)
    loss.backward()
    check_gradients(case, model, names.OFFICIAL_BARE)


@checks(names=("caption_decoder*",))
def caption(case: Case) -> None:
    c, weights = case.facts["config"], case.part("model")
    model = models.CaptionDecoder(c["width"], c["layers"], c["heads"], c["vision_width"], c["queries"], c["vocab"])
    load_whole(model, weights)
    back, _ = to_theirs(names.CAPTION, {f"caption.{name}": tensor for name, tensor in model.state_dict().items()})
    back |= names.constants(back)
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert_close(back[name], tensor, **TABLE, msg=lambda m, name=name: f"{name}: {m}")

    text, video = (case[f"in/{name}"].clone().requires_grad_() for name in ("text_feats", "video_feats_lntc"))
    case.sizes(c, batch=text.shape[0], context=text.shape[1], tokens=video.shape[0], frames=video.shape[2])
    logits = model(text[:, :-1], video.permute(1, 2, 0, 3).flatten(1, 2))
    case.close("out/logits", logits)
    if "in/ids" in case:
        loss = caption_loss(next_token_loss(logits, case["in/ids"]), ~case["in/pad_mask"])
        case.close("out/cap_loss", loss)
        loss.backward()
        case.close("out/grad_text_feats", text.grad)
        case.close("out/grad_video_feats", video.grad)
        check_gradients(case, model, {ours.removeprefix("caption."): theirs for ours, theirs in names.CAPTION.items()})


@checks(names=("uniformerv2*",), not_needed=STORED)
def classifier(case: Case) -> None:
    c, weights = case.facts["config"], case.part("model")
    double = c.get("double_lmhra", True)
    local = 0 if c["no_lmhra"] else 2 if double else 1
    options = {"reduction": c["dw_reduction"], "downsample": c["temporal_downsample"]}
    encoder = tower(c, None, local=local, **options, balance=not c.get("frozen", False))
    model = models.UniFormerV2Classifier(encoder, c["classes"], dropout=0.0).eval()
    report = models.load_weights(model, weights)
    uncounted = [name for name in report.missing if not name.endswith("num_batches_tracked")]
    assert not report.unused and not uncounted, report
    back, unknown = to_theirs(names.UNIFORMERV2, model.state_dict())
    assert not unknown and all(torch.equal(back[name], tensor) for name, tensor in weights.items())

    video = case["in/video_bcthw"]
    logits = model(video)
    case.close("out/logits_eval", logits)
    if "in/labels" in case:
        loss = F.cross_entropy(logits, case["in/labels"])
        case.close("out/loss_eval", loss)
        loss.backward()
        check_gradients(case, model, names.UNIFORMERV2)
    after = case.names("out/after_train")
    if after or "out/logits_train" in case:
        with torch.no_grad():
            case.close("out/logits_train", model.train()(video))
    state, _ = to_theirs(names.UNIFORMERV2, model.state_dict())
    for name in after:
        case.close(name, state[name.removeprefix("out/after_train/")])


@checks(names=("masks*",), not_needed={"out/qa_*": "masked answers to questions belong to a method that is not built"})
def masks(case: Case) -> None:
    """InternVideo1's masked text tokens (recorded draws) and masked patches per frame; the number of visible tokens of
    UMT's numpy masks."""
    c = case.facts["config"]
    text_ratio, visual_ratio, patch, shape = (c.get(key) for key in ("mlm_prob", "mim_prob", "patch", "video"))
    if "out/text_masked" in case:
        # Noise below the ratio where the official draw masked a token, above it elsewhere; padding is never masked.
        padding, drawn = case["in/pad_mask"], case["out/text_masked"]
        noise = torch.where(drawn, 0.5, 1.5) * case["in/text_mask_prob"].max()
        hidden = choose_tokens(torch.where(padding, 0.0, noise), ~padding, text_ratio)
        assert torch.equal(hidden, drawn)
        case.equal("out/text_ids", case["in/ids"])
        case.equal("out/text_labels", masked_labels(case["in/ids"], hidden))
        assert IGNORE_INDEX == -100
    if "in/visual_noise" in case:
        b, _, frames, height, width = shape
        noise = 1 - case["in/visual_noise"].double().view(b, -1)
        grid = frames, height // patch, width // patch
        keep = RandomFrames(visual_ratio)(noise, grid)
        case.equal("out/visual_mask", hidden_by(keep, noise.shape[1]).view(b * frames, -1))
    if tube := c.get("tube"):
        rows, ratio, grid = tube["batch"], tube["ratio"], tuple(tube["window"])
        for name, mask in {"tube": Tube(ratio), "random": Random(ratio)}.items():
            if f"out/{name}" in case:
                keep = mask(torch.rand(rows, mask.width(grid)), grid)
                marked = hidden_by(keep, case[f"out/{name}"].shape[1]).sum(1)
                assert torch.equal(marked, case[f"out/{name}"].sum(1)), "another number of masked tokens"
                case.compared.add(f"out/{name}")
