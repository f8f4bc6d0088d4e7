"""UMT stage 1 against the official code: CLIP teacher, student, both together, fine-tuning, pretrained weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

import models
from models.convert import clip as clip_names
from models.convert import umt as names
from models.convert.rules import to_theirs
from pretrain.learning.losses import alignment_loss
from pretrain.learning.masking import Attention, Random, Tube
from pretrain.learning.teachers import Frozen, last_blocks, resize_frames
from pretrain.objectives import UMT
from tests.parity import checks
from tests.parity.case import ACTIVATION, EXACT, GRADIENT, LOSS, TABLE, Case, Record
from tests.parity.masks import check_order, hidden_by, reference_noise
from tests.parity.videomae import STORED, backbone, check_finetune, check_load, classifier, indices
from tests.parity.weights import check_gradients, load_whole, norm_of

STORED = {
    **STORED,
    "*.batch": "the inputs are stored",
    "*.embed_scale": "how the stored weights were made",
    "*.head_scale": "how the stored weights were made",
}


def clip_tower(config: Record, weights: dict) -> models.CLIPVision:
    """A vision tower of a case's sizes with its official weights."""
    mlp = weights["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    sizes = config["width"], config["layers"], config["heads"], mlp, config["patch"], config["res"], config["out"]
    return load_whole(models.CLIPVision(*sizes), weights).eval()


def unit(layers: list[Tensor]) -> Tensor:
    return torch.stack([F.normalize(layer, dim=-1) for layer in layers])


@checks("clip_teacher", "clip_teacher_load", not_needed=STORED)
def clip_teacher(case: Case) -> None:
    config, video = case.facts["config"], case["input/video"]
    weights = case.part("teacher") or case.part("ckpt")
    model = clip_tower(config, weights)
    case.sizes(config, frames=video.shape[2])
    case.sizes(case.facts, checkpoint_grid=math.isqrt(len(weights["positional_embedding"])))
    ours, _ = to_theirs(clip_names.OPENAI_VISUAL, model.state_dict())
    for name in case.names("loaded"):
        case.close(name, ours[name.removeprefix("loaded/")].view_as(case[name]), TABLE)
    taps = last_blocks(config["layers"], config["return_layers"], config.get("interval", 1))
    case.fact(case.facts, "returned_layers_ascending", list(taps))
    with torch.no_grad():
        seen = model(video, taps=taps)
        case.close("output/features", unit(seen.features), ACTIVATION)
        case.close("output/features_unnormalised", torch.stack(seen.features), ACTIVATION)
        case.close("output/cls_attention", seen.attention.flatten(0, 1), ACTIVATION)
        if "input/mask" in case:
            keep = indices(~case["input/mask"])
            part_seen = model(video, keep, taps)
            case.close("output/features_masked_input", unit(part_seen.features), ACTIVATION)
            case.close("output/cls_attention_masked_input", part_seen.attention.flatten(0, 1), ACTIVATION)
            # Computing only the chosen tokens, by either path, equals picking them from all tokens.
            picked = unit(seen.features).take_along_dim(keep[None, ..., None], 2)
            for even in (True, False):
                some = model(video, None, taps, lambda _: keep, even)
                assert torch.equal(some.keep, keep)
                torch.testing.assert_close(unit(some.features), picked, **ACTIVATION)


def student(config: Record, weights: dict, teacher: models.CLIPVision | None = None) -> UMT:
    """A UMT of a case's sizes with its official weights; without a teacher, one that is never run."""
    encoder = backbone(config, tubelet=1)
    sizes = {name: encoder[name] for name in ("patch", "tubelet", "frames", "size")}
    layers, out = config["return_layers"], config["out"]
    decoder = models.FeatureDecoder(encoder["width"], out, layers, **sizes)
    if teacher is None:
        teacher = models.CLIPVision(8, config["depth"], 1, 8, sizes["patch"], sizes["size"], out)
    frozen = Frozen(teacher, weights="never read")
    frozen.weights = None
    kind = {"attention": Attention, "tube": Tube, "random": Random}[config.get("mask_type", "attention")]
    mask, interval = kind(config["mask_ratio"]), config.get("interval", 1)
    model = UMT(models.VideoViT(**encoder), decoder, frozen, mask, interval, config.get("loss", "l2"))
    return load_whole(model, weights)


def mask_of(case: Case, model: UMT, config: Record, attention: Tensor) -> Tensor:
    """The visible tokens that our mask makes of attention `[B * T, h * w]`; they must be the stored ones.

    A mask that is not guided by attention was drawn by another generator: it is taken as stored.
    """
    if not isinstance(model.mask, Attention):
        keep = indices(~case["mask/bool_masked"])
        noise = torch.rand(len(keep), model.mask.width(model.encoder.grid))
        assert model.mask(noise, model.encoder.grid).shape == keep.shape
        return keep
    frames = model.encoder.grid[0]
    noise = reference_noise(config["mask_seed"], attention.shape)
    grouped = attention.view(-1, frames, attention.shape[1])
    keep = model.mask(noise.view(len(grouped), -1), model.encoder.grid, grouped)
    case.equal("mask/bool_masked", hidden_by(keep, noise[0].numel() * frames))
    case.equal("mask/importance_order", lambda: check_order(attention, noise))
    case.fact(case.facts, "n_visible_per_frame", keep.shape[1] // frames)
    return keep


def check_student(case: Case, model: UMT, config: Record, target: list[Tensor], keep: Tensor) -> None:
    """Features, loss and gradients of the student, given its visible tokens and the teacher's features of them."""
    _, layers = model.encoder(case["input/video"], keep, model.taps)
    case.close("output/encoder_layers_normed", torch.stack(layers), ACTIVATION)
    features = model.decoder(layers, keep)
    case.close("output/student_features", unit(features), ACTIVATION)
    ratio = config.get("loss_ratio", 1.0)  # of the official loop, which has the one loss only
    loss = ratio * alignment_loss(features, target, model.loss)
    case.close("loss", loss, LOSS)
    case.fact(case.facts, "loss", loss.item(), LOSS)
    model.zero_grad()
    loss.backward()
    ours = check_gradients(case, model, names.OFFICIAL_PRETRAIN, GRADIENT)
    assert len(ours) == len([p for p in model.parameters() if p.requires_grad])
    case.close("grad_norm", norm_of(ours), GRADIENT)
    case.fact(case.facts, "grad_norm", norm_of(ours).item(), GRADIENT)


@checks("umt_student_distill", not_needed=STORED)
def distill(case: Case) -> None:
    config = case.facts["config"]
    model = student(config, case.part("student"))
    case.fact(case.facts, "returned_layers_ascending", list(model.taps))
    attention = case.get("input/cls_attention")
    keep = indices(~case["mask/bool_masked"]) if attention is None else mask_of(case, model, config, attention)
    if "input/teacher_features" in case:
        target = case["input/teacher_features"].take_along_dim(keep[None, ..., None], 2)
        case.close("target/features", target, EXACT)
    else:
        target = case["target/features"]
    check_student(case, model, config, list(target), keep)


@checks("umt_end_to_end", not_needed={**STORED, "teacher.frames": "frame by frame, it takes any number of them"})
def end_to_end(case: Case) -> None:
    config, teacher = case.facts["student"], case.facts["teacher"]
    model = student(config, case.part("student"), clip_tower(teacher, case.part("teacher")))
    case.fact(teacher, "return_layers", config["return_layers"])
    case.fact(teacher, "interval", config.get("interval", 1))
    video = case["input/video"]
    resized = resize_frames(video, teacher["res"])
    case.close("teacher_input/video", resized, ACTIVATION)
    everything = model.teacher(resized, taps=model.teacher_taps)
    attention = everything.attention.flatten(0, 1)
    case.close("output/cls_attention", attention, ACTIVATION)
    case.close("output/teacher_features", unit(everything.features), ACTIVATION)
    keep = mask_of(case, model, config, attention)
    if isinstance(model.mask, Attention):
        noise = reference_noise(config["mask_seed"], attention.shape).view(len(video), -1)
        target, chosen = model.teacher_targets(video, noise)
        assert torch.equal(chosen, keep)
    else:
        target = [layer.take_along_dim(keep[..., None], 1) for layer in everything.features]
    case.close("target/features", unit(target), ACTIVATION)
    check_student(case, model, config, target, keep)


def umt_classifier(config: Record) -> models.VideoClassifier:
    """Official fine-tuning starts from the table of 8 x 14 x 14 tokens, resized where the grid differs."""
    mean = config.get("mean_pool", True)
    return classifier(config, config["classes"], mean, tubelet=1, made_for=(8, 14, 14))


@checks("umt_finetune", not_needed=STORED)
def finetune(case: Case) -> None:
    facts, config = case.facts, case.facts["config"]
    model = umt_classifier(config)
    is_parameter = bool(model.encoder.positions.state_dict())
    case.fact(facts, "pos_embed_is_parameter", is_parameter)
    if is_parameter and not config.get("random_pos"):
        torch.testing.assert_close(model.encoder.positions.table, case["model/pos_embed"][0], **TABLE)
    gradients = check_finetune(case, model)
    case.fact(facts, "pos_embed_receives_gradient", "pos_embed" in gradients)


STUDENT = ("depth", "embed_dim", "frames", "heads", "img_size", "init_values", "interval", "learnable_pos", "loss")
STUDENT += ("loss_ratio", "mask_ratio", "mask_seed", "mask_type", "mlp_ratio", "out", "patch_size", "return_layers")


@checks(
    "umt_load_pretrained",
    not_needed={**STORED, **{f"student.{key}": "the student's checkpoint is stored" for key in STUDENT}},
)
def load_pretrained(case: Case) -> None:
    check_load(case, umt_classifier(case.facts["classifier"]), case.part("model_before"), positions=TABLE)
