"""UMT stage 2 against the official code: teacher, student, features, four losses and their gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import models
from models.convert import umt2 as names
from models.tokenizers import Tokenizer, Words
from pretrain.learning.contrast import hard_negatives, same_pairs, similarity
from pretrain.learning.masking import Attention, Random, Tube
from pretrain.learning.teachers import Frozen, resize_frames
from pretrain.learning.text_masking import IGNORE_INDEX
from pretrain.objectives import UMT2
from tests.parity import checks
from tests.parity.case import CLOSE, Case, Record
from tests.parity.masks import reference_noise
from tests.parity.videomae import indices
from tests.parity.weights import check_gradients

SPECIAL = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}
MASKS = {"attention": Attention, "tube": Tube, "random": Random}


class TableTokenizer(Tokenizer):
    """The texts of a case are its rows of ids: the text `i` is row i."""

    def __init__(self, ids: Tensor, special: dict[str, int], vocabulary: int) -> None:
        self.ids, self.context, self.vocabulary = ids, ids.shape[1], vocabulary
        self.pad, self.start, self.end, self.mask = (special.get(k) for k in ("pad", "cls", "sep", "mask"))

    def __call__(self, texts: list[str]) -> Tensor:
        return self.ids[[int(text) for text in texts]]


def words_of(case: Case, ids: Tensor, vocabulary: int) -> Words:
    special = case.facts["special_ids"].plain() if "special_ids" in case.facts else SPECIAL
    return Words(TableTokenizer(ids, special, vocabulary), clean=False)


def encoder_of(c: Record, weights: dict) -> models.VideoViT:
    mlp = weights.get("vision_encoder.encoder.blocks.0.mlp.fc1.weight", torch.empty(4 * c["width"], 1)).shape[0]
    sizes = {"patch": c["patch"], "tubelet": c["tubelet"], "frames": c["frames"], "size": c["res"]}
    return models.VideoViT(c["width"], c["layers"], c["heads"], mlp, **sizes)


def text_of(c: Record, source: int, layers: int | None = None, **options) -> models.Bert:
    sizes = c["width"], layers or c["layers"], c["heads"], c["ffn"]
    options = {"fusion": options.get("fusion", c["fusion"]), "source": source, **options}
    return models.Bert(*sizes, **options, vocabulary=c["vocab"], context=c["max_pos"])


def stage2(case: Case, weights: dict, aligned: bool) -> UMT2:
    """A UMT2 with a case's weights, in eval mode; `aligned`: with the teacher and the decoder for its features.

    The parts of the other losses are those of which there are weights.
    """
    c = case.facts["config"]
    vision, w = c["vision"], c.get("w", [1.0] * 4)
    head = any("cls.predictions" in name for name in weights)
    text = text_of(c["text"], vision["width"], head=head)
    words = words_of(case, case["in/input_ids"], c["text"]["vocab"])
    case.sizes(c, txt_len=words.tokenizer.context)
    parts: dict = {"matching_weight": w[2], "words_weight": w[3] if head else 0, "alignment_weight": 0}
    if aligned:
        teacher, mask = c["teacher"], MASKS[c.get("mask_type", "attention")]
        sizes = vision["patch"], vision["tubelet"], vision["frames"], vision["res"]
        layers = vision["clip_return_layer"]
        parts["decoder"] = models.FeatureDecoder(vision["width"], teacher["out"], layers, *sizes, 1e-5)
        mlp = weights["clip_teacher.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
        sizes = teacher["width"], teacher["layers"], teacher["heads"], mlp
        tower = models.CLIPVision(*sizes, teacher["patch"], teacher["res"], teacher["out"])
        report = models.load_weights(tower, weights)
        assert not report.missing and all(not name.startswith("clip_teacher.") for name in report.unused), report
        parts["teacher"] = Frozen(tower, weights="read above")
        parts["teacher"].weights = None
        parts |= {"mask": mask(c["video_mask_ratio"]), "image_mask": mask(c["image_mask_ratio"])}
        parts |= {"alignment_weight": w[0], "hide": c["mlm_prob"]}
    model = UMT2(encoder_of(vision, weights), text, words, c["embed"], contrast_weight=w[1], **parts)
    report = models.load_weights(model, weights)
    spare = [name for name in report.unused if not name.startswith("clip_teacher.")]
    assert not report.missing, report
    assert not spare or (not aligned and all("clip_decoder" in name for name in spare)), report
    tuned = "text_encoder.embeddings.word_embeddings.weight" in weights
    state, unknown = names.to_official(model.state_dict(), tuned)
    assert not unknown
    for name, tensor in state.items():  # and back, to the last bit
        assert torch.equal(tensor, weights[name]), name
    case.fact(c, "temp", model.temperature.item(), {"atol": 1e-6, "rtol": 1e-6})
    return model.eval()


@checks(names=("umt_stage2*",))
def umt_stage2(case: Case) -> None:
    weights = case.part("model")
    model = stage2(case, weights, aligned=any(name.startswith("clip_teacher.") for name in weights))
    video = case["in/video_btchw"].transpose(1, 2)
    ids, visible = case["in/input_ids"], case["in/attention_mask"].bool()
    frames = video.shape[2]
    case.fact(case.facts, "frames_used", frames)
    keep, target = check_teacher(case, model, video) if model.teacher is not None else (None, None)

    # The student and the features
    tokens, layers = model.encode(video, keep)
    case.close("out/vision_embeds", tokens)
    if layers:
        case.close("out/student_output", torch.stack(model.decoder(layers, keep)))
    case.close("out/pooled_vision_embeds", model.pool_norm(tokens.mean(1, keepdim=True)))
    feature = model.project_video(tokens, whole=False)
    case.close("out/vision_proj", feature)
    states = model.text.encode(ids, visible)
    case.close("out/text_embeds", states)
    text = model.text_proj(states[:, 0])
    case.close("out/text_proj", text)
    check_test_features(case, model, video)

    losses = losses_of(case, model, video, keep, target)
    for name, official in (("alignment", "uta"), ("contrast", "vtc"), ("matching", "vtm"), ("words", "mlm")):
        case.close(f"out/loss_{official}", losses.get(name, torch.zeros(())))
    check_negatives(case, similarity(feature, text, model.temperature).detach(), same_pairs(case["in/idx"]))
    if "out/vtm_logits" in case:
        wrong_video, wrong_text = case["out/vtm_vision_neg"], case["out/vtm_text_neg"]
        logits = model.match_logits(
            torch.cat((tokens, tokens[wrong_video], tokens)),
            torch.cat((states, states, states[wrong_text])),
            torch.cat((visible, visible, visible[wrong_text])),
        )
        case.close("out/vtm_logits", logits)
    total = sum(losses.values())
    case.close("out/total", total)
    model.zero_grad()
    total.backward()
    assert len(losses) < 4 or all(p.grad is not None for p in model.parameters())
    check_gradients(case, model, names.OFFICIAL)


def check_teacher(case: Case, model: UMT2, video: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The visible tokens that the teacher's attention chooses, and its features of them."""
    clip, frames = model.teacher.model, video.shape[2]
    resized = resize_frames(video, clip.size)
    attention = model.teacher(resized).attention
    case.close("out/teacher_cls_attention", attention.flatten(0, 1))
    mask = model.image_mask if frames == 1 else model.mask
    grid = frames, *model.encoder.grid[1:]
    if isinstance(mask, Attention) and "torch_manual_seed" in case.facts:
        rows = len(video)
        noise = reference_noise(case.facts["torch_manual_seed"], torch.Size((rows * frames, attention.shape[2])))
        keep = mask(noise.view(rows, -1), grid, attention)
        if "out/teacher_mask" in case:
            assert torch.equal(indices(~case["out/teacher_mask"].view(rows, -1)), keep)
    else:  # drawn by another generator
        keep = indices(~case["out/teacher_mask"].view(len(video), -1))
        assert mask(torch.rand(len(video), mask.width(grid)), grid, attention).shape == keep.shape
    target = model.teacher(resized, taps=model.teacher_taps, choose=lambda _: keep).features
    case.close("out/teacher_targets", torch.stack(target))
    return keep, target


def check_test_features(case: Case, model: UMT2, video: Tensor) -> None:
    """Features of whole videos, a vector a frame, as in evaluation."""
    with torch.no_grad():
        everything, _ = model.encode(video)
        case.close("out/test_vision_embeds", everything)
        pooled = model.pool_norm(everything.unflatten(1, (video.shape[2], -1)).mean(2))
        case.close("out/test_pooled_vision_embeds", pooled)
        expected = F.normalize(model.video_proj(pooled), dim=-1).mean(1)
        assert_close(model.encode_video(video), expected, **CLOSE)
        if "out/text_proj" in case:
            found = model.encode_text([str(i) for i in range(len(video))])
            assert_close(found, F.normalize(case["out/text_proj"], dim=-1), **CLOSE)


def losses_of(case: Case, model: UMT2, video: Tensor, keep: Tensor | None, target: list | None) -> dict[str, Tensor]:
    """The losses that the model has, with the recorded draws of visible tokens, negatives and masked text tokens."""
    ids, rows = case["in/input_ids"], len(video)
    model.visible_and_targets = lambda video, generator: (keep, target)
    # A loss without its recorded draws is left out.
    for name, draws in (("matching", "out/vtm_vision_neg"), ("words", "out/mlm_labels")):
        model.loss_weights[name] *= draws in case
    if model.loss_weights["matching"]:
        wrong = case["out/vtm_vision_neg"], case["out/vtm_text_neg"]
        model.sample_negatives = lambda *_: (*wrong, torch.ones(rows))
    if model.loss_weights["words"]:
        check_masked_text(case, model)
        read, labels = case["out/mlm_input_ids"], case["out/mlm_labels"]
        model.mask_tokens = lambda ids, *_: (read[:, : ids.shape[1]], labels[:, : ids.shape[1]])
    index = case["in/idx"].tolist()
    batch = {"video": video, "text": [str(i) for i in range(len(ids))], "name": [str(i) for i in index]}
    return model(batch)


def check_negatives(case: Case, similar: Tensor, same: Tensor) -> None:
    """The recorded weights are ours, and our draws are distributed by them, within 5 standard errors."""
    for name, sims in (("out/vtm_weights_v2t", similar), ("out/vtm_weights_t2v", similar.t())):
        if name not in case:
            continue
        case.close(name, sims.softmax(dim=1).masked_fill(same, 0))
        draws = 20_000
        noise = torch.rand(draws * len(sims), len(sims), generator=torch.Generator().manual_seed(0))
        column, has_negative = hard_negatives(sims.repeat(draws, 1), same.repeat(draws, 1), noise)
        drawn = F.one_hot(column, len(sims)).view(draws, *sims.shape).float().mean(0)
        chance = case[name] / case[name].sum(1, keepdim=True)
        assert has_negative.all() and not drawn[same].any()
        assert ((drawn - chance).abs() < 5 * (chance * (1 - chance) / draws).sqrt() + 1e-6).all()


def check_masked_text(case: Case, model: UMT2) -> None:
    """Our masking can draw the recorded one: it may mask the same places, with the same labels."""
    ids, visible, labels = case["in/input_ids"], case["in/attention_mask"].bool(), case["out/mlm_labels"]
    masked = labels != IGNORE_INDEX
    model.hide, before = 1.0, model.hide
    read, every = model.mask_tokens(ids, visible, model.generator(ids.device))
    model.hide = before
    assert not (masked & (every == IGNORE_INDEX)).any() and torch.equal(every[masked], labels[masked])
    assert torch.equal(case["out/mlm_input_ids"][~masked], ids[~masked]) and read.shape == ids.shape
