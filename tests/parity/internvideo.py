"""InternVideo against the official code: both towers, contrast, captions, UniFormerV2's classifier."""

import torch
import torch.nn.functional as F
from torch.testing import assert_close

import models
from models.convert import internvideo as names
from models.convert.rules import to_theirs
from pretrain.learning.text_masking import caption_loss, next_word_errors
from pretrain.objectives import InternVideo
from tests.parity import CLOSE, part


def close(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    assert_close(ours, theirs, **CLOSE, msg=lambda m: f"{what}: {m}")


def same_gradients(model: torch.nn.Module, rules: dict, gradients: dict) -> None:
    ours, _ = to_theirs(rules, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients.items():
        close(ours[name], gradient, f"gradient of {name}")


def tower(c: dict, out: int | None, **options) -> models.UniFormerV2:
    sizes = c["width"], c["layers"], c["heads"], 4 * c["width"], c["patch"], c["frames"], c["res"], out
    return models.UniFormerV2(*sizes, reads=sorted(c["return_list"]), **options)


def multimodal(facts: dict, t: dict) -> None:
    c, weights = facts["config"], part(t, "model")
    wt = c["t_width"]
    text = models.CLIPText(
        wt, c["t_layers"], c["t_heads"], 4 * wt, c["embed"], c["vocab"], c["context"], mask_token=True
    )
    model = InternVideo(tower(c, c["embed"]), text, words=lambda ids: ids, hide=0.5)
    report = models.load_weights(model, weights)
    assert not report.unused and not report.missing, report
    back, unknown = to_theirs(names.OFFICIAL_BARE, model.state_dict())
    back = {name: tensor for name, tensor in back.items() if not name.startswith("normalize.")}
    assert back.keys() == weights.keys() and not [n for n in unknown if not n.startswith("normalize.")]
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())

    video, ids, rows = t["in/video_bcthw"], t["in/ids"], len(t["in/ids"])
    model.eval()
    feature, tokens = model.encoder.look(video)
    close(feature, t["out/video_feat"], "video")
    theirs = t["out/video_all_feats_lntc"].permute(1, 2, 0, 3)  # [B, t, 1 + n, D]
    close(tokens.view_as(theirs), theirs, "tokens")
    close(model.encoder(video), theirs[:, :, 1:].flatten(1, 2), "patches")
    picture = model.encoder.look(video[:, :, :1])[0]
    close(picture, t["out/image_feat_first_frame"], "picture")
    words, states = model.text(ids)
    close(words, t["out/text_feat"], "text")
    close(states, t["out/text_all_feats"], "states")
    hidden = model.text(ids, t["in/text_mask"])
    close(hidden[0], t["out/text_feat_masked"], "text with hidden words")
    close(hidden[1], t["out/text_all_feats_masked"], "states with hidden words")
    scale = weights["logit_scale"].exp()
    logits = scale * F.normalize(feature, dim=-1) @ F.normalize(words, dim=-1).t()
    close(logits, t["out/image_logits"], "logits")  # so called there, and of the video

    loss = model({"video": video, "text": ids, "name": [str(i) for i in range(rows)]})["contrast"]
    close(loss, t["out/contrastive_loss"], "loss")
    loss.backward()
    same_gradients(model, names.OFFICIAL_BARE, part(t, "grad"))


def caption(facts: dict, t: dict) -> None:
    c, weights = facts["config"], part(t, "model")
    model = models.CaptionDecoder(c["width"], c["layers"], c["heads"], c["vision_width"], c["queries"], c["vocab"])
    report = models.load_weights(model, weights)
    assert not report.unused and not report.missing, report
    back, _ = to_theirs(names.CAPTION, {f"caption.{name}": tensor for name, tensor in model.state_dict().items()})
    back |= names.constants(back)
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert_close(back[name], tensor, atol=1e-6, rtol=0, msg=lambda m, name=name: f"{name}: {m}")

    text, video = t["in/text_feats"].requires_grad_(), t["in/video_feats_lntc"].requires_grad_()
    scores = model(text[:, :-1], video.permute(1, 2, 0, 3).flatten(1, 2))
    close(scores, t["out/logits"], "scores")
    loss = caption_loss(next_word_errors(scores, t["in/ids"]), ~t["in/pad_mask"])
    close(loss, t["out/cap_loss"], "loss")
    loss.backward()
    close(text.grad, t["out/grad_text_feats"], "gradient of the text")
    close(video.grad, t["out/grad_video_feats"], "gradient of the video")
    rules = {mine.removeprefix("caption."): theirs for mine, theirs in names.CAPTION.items()}
    same_gradients(model, rules, part(t, "grad"))


def classifier(facts: dict, t: dict) -> None:
    c, weights = facts["config"], part(t, "model")
    local = 0 if c["no_lmhra"] else 2 if c["double_lmhra"] else 1
    encoder = tower(
        c,
        None,
        local=local,
        reduction=c["dw_reduction"],
        downsample=c["temporal_downsample"],
        balance=not c.get("frozen", False),
    )
    model = models.UniFormerV2Classifier(encoder, c["classes"], dropout=0.0).eval()
    report = models.load_weights(model, weights)
    uncounted = [name for name in report.missing if not name.endswith("num_batches_tracked")]
    assert not report.unused and not uncounted, report
    back, unknown = to_theirs(names.UNIFORMERV2, model.state_dict())
    assert not unknown and all(torch.equal(back[name], tensor) for name, tensor in weights.items())

    scores = model(t["in/video_bcthw"])
    close(scores, t["out/logits_eval"], "scores")
    loss = F.cross_entropy(scores, t["in/labels"])
    close(loss, t["out/loss_eval"], "loss")
    loss.backward()
    same_gradients(model, names.UNIFORMERV2, part(t, "grad"))
    if "out/logits_train" in t:
        with torch.no_grad():
            close(model.train()(t["in/video_bcthw"]), t["out/logits_train"], "scores in training")
    after, _ = to_theirs(names.UNIFORMERV2, model.state_dict())
    for name, tensor in part(t, "out/after_train").items():
        close(after[name], tensor, f"{name} after a step")


CHECKS = {"internvideo1_mm": multimodal, "caption_decoder": caption, "uniformerv2": classifier}
