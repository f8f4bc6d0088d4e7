"""VideoMAE V2 against the official code: pretraining, optimiser steps, fine-tuning, loading."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import models
from models.convert import videomae as names
from models.convert.rules import to_theirs
from pretrain.learning.masking import Random, Tube, masked_first
from pretrain.learning.optim import Optim
from pretrain.objectives import VideoMAE
from tests.parity import checks
from tests.parity.case import ACTIVATION, EXACT, GRADIENT, LOSS, STEPPED, Case, Record
from tests.parity.weights import check_gradients, load_whole, norm_of, official_gradients, official_names

# Not needed by checks whose inputs and masks are stored.
STORED = {
    "config.batch": "the inputs are stored",
    "config.low_variance": "how the stored video was made",
    "config.mask_seed": "the masks are stored",
}


def indices(marks: Tensor) -> Tensor:
    """The marked places `[B, K]` of booleans `[B, N]` with as many marks in each row, in raster order."""
    return marks.nonzero()[:, 1].view(len(marks), -1)


def backbone(config: Record, tubelet: int = 2, **options) -> dict:
    """The arguments of `VideoViT` for a case's encoder."""
    width = config["embed_dim"]
    return {
        "width": width,
        "depth": config["depth"],
        "heads": config["heads"],
        "mlp": int(width * config.get("mlp_ratio", 4)),
        "patch": config["patch_size"],
        "tubelet": config.get("tubelet_size", tubelet),
        "frames": config["frames"],
        "size": config["img_size"],
        "layer_scale": config.get("init_values") or 0.0,
        "cosine": config.get("cos_attn", False),
        "learn_positions": config.get("learnable_pos", False),
        **options,
    }


def videomae(config: Record, weights: dict, optim: Optim | None = None) -> VideoMAE:
    """A VideoMAE of a case's sizes with its official weights."""
    encoder = backbone(config)
    sizes = {name: encoder[name] for name in ("patch", "tubelet", "frames", "size", "layer_scale", "cosine")}
    width = config["dec_dim"]
    mlp = int(width * config.get("mlp_ratio", 4))
    decoder = models.PixelDecoder(encoder["width"], width, config["dec_depth"], config["dec_heads"], mlp, **sizes)
    normalize = config.get("normlize_target", True)  # spelt as in the official code
    return load_whole(VideoMAE(models.VideoViT(**encoder), decoder, normalize_target=normalize, optim=optim), weights)


def masks_of(case: Case, prefix: str, config: Record, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Visible and decoded tokens of the stored masks, whose numbers must be those of the case's ratios."""
    hidden = case[f"{prefix}/encoder_mask"]
    not_decoded = case.get(f"{prefix}/decoder_mask", ~hidden)  # without a decoder mask all hidden tokens are decoded
    keep, predict = indices(~hidden), indices(~not_decoded)
    mask = {"tube": Tube, "random": Random}[config.get("mask_type", "tube")](config["mask_ratio"])
    assert mask(torch.rand(1, mask.width(grid)), grid).shape[1] == keep.shape[1]
    ratio, tokens = config.get("dec_mask_ratio", 0.0), hidden.shape[1]
    assert predict.shape[1] == (tokens - int(ratio * tokens) if ratio else tokens - keep.shape[1])
    return keep, predict


@checks("videomae_v2_pretrain", not_needed=STORED)
def pretrain(case: Case) -> None:
    facts, config = case.facts, case.facts["config"]
    model = videomae(config, case.part("model"))
    video, grid = case["input/video"], model.encoder.grid
    keep, predict = masks_of(case, "input", config, grid)
    case.fact(facts, "token_grid_t_h_w", list(grid))
    case.fact(facts, "n_visible", keep.shape[1])
    case.fact(facts, "n_decoded", predict.shape[1])
    in_loss = case["input/encoder_mask"].gather(1, predict)
    case.equal("target/loss_token_mask", in_loss)
    case.fact(facts, "n_tokens_in_loss", in_loss.sum(1).tolist()[0])
    assert torch.equal(masked_first(predict, keep, case["input/encoder_mask"].shape[1])[1].sum(1), in_loss.sum(1))

    tokens = model.encoder(video, keep)
    case.close("output/encoder_tokens", tokens, ACTIVATION)
    case.close("output/pred", lambda: model.decoder(tokens, keep, predict), ACTIVATION)
    case.close("target/labels", lambda: model.target(video, predict), ACTIVATION)
    # Reading only the tokens that can be in the loss must not change it.
    for read in (None, int(in_loss.sum(1).max())):
        model.zero_grad()
        loss = model.reconstruction_loss(video, keep, predict, read)
        loss.backward()
        check_loss(case, loss, norm_of(check_gradients(case, model, names.OFFICIAL_PRETRAIN, GRADIENT)))


def check_loss(case: Case, loss: Tensor, norm: Tensor) -> None:
    """Loss and norm of all gradients, which stand among the tensors, the facts, or both."""
    case.close("loss", loss, LOSS)
    case.fact(case.facts, "loss", loss.item(), LOSS)
    case.close("grad_norm", norm, GRADIENT)
    case.fact(case.facts, "grad_norm", norm.item(), GRADIENT)


@checks("videomae_v2_pretrain_steps", not_needed={**STORED, "optimizer.momentum": "AdamW has none"})
def pretrain_steps(case: Case) -> None:
    facts, settings = case.facts, case.facts["optimizer"]
    assert settings.get("opt", "adamw") == "adamw"
    optim = Optim(
        base_lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        betas=tuple(settings.get("opt_betas") or (0.9, 0.999)),
        eps=settings.get("opt_eps") or 1e-8,
    )
    model = videomae(facts["config"], case.part("model"), optim)
    optimizer = optim.build(model)
    still = {p for group in optimizer.param_groups if not group["decays"] for p in group["params"]}
    undecayed = [name for name, p in model.named_parameters() if p in still]
    if "no_weight_decay_params" in facts:
        case.fact(facts, "no_weight_decay_params", official_names(undecayed, names.OFFICIAL_PRETRAIN))
    losses, norms = [], []
    for step, lr in enumerate(facts["lr_per_step"]):
        decay = facts["wd_per_step"][step] if "wd_per_step" in facts else settings["weight_decay"]
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            group["weight_decay"] = decay if group["decays"] else 0.0
        keep, predict = masks_of(case, f"input/step{step}", facts["config"], model.encoder.grid)
        loss = model.reconstruction_loss(case[f"input/step{step}/video"], keep, predict)
        loss.backward()
        limit = facts.get("clip_grad") or float("inf")
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), limit).item())
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    case.fact(facts, "losses", losses, LOSS)
    case.fact(facts, "grad_norms_before_clipping", norms, GRADIENT)
    after, _ = to_theirs(names.OFFICIAL_PRETRAIN, model.state_dict())
    for name in case.names("after"):
        case.close(name, after[name.removeprefix("after/")], STEPPED)


def classifier(config: Record, classes: int, mean: bool, tubelet: int = 2, **options) -> models.VideoClassifier:
    encoder = backbone(config, tubelet, norm=not mean)
    return models.VideoClassifier(models.VideoViT(**encoder, **options), classes, mean)


@checks(
    "videomae_v2_finetune", not_needed={**STORED, "pos_embed": "a description; loading finds a place for every key"}
)
def finetune(case: Case) -> None:
    config = case.facts["config"]
    check_finetune(case, classifier(config, config["classes"], config.get("mean_pool", True)))


def check_finetune(case: Case, model: models.VideoClassifier) -> dict:
    """Features, scores, losses and gradients of a classifier; returns the gradients, under official names."""
    load_whole(model, case.part("model"))
    video = case["input/video"]
    case.close("output/features", lambda: model.features(video), ACTIVATION)
    logits = model(video)
    case.close("output/logits", logits, ACTIVATION)
    if "input/labels" not in case:
        return {}
    labels, smoothed = case["input/labels"], "loss_label_smoothing_"
    for name in case.names():
        if name.startswith(smoothed):
            smoothing = float(name.removeprefix(smoothed))
            case.close(name, F.cross_entropy(logits, labels, label_smoothing=smoothing), LOSS)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    ours = official_gradients(model, names.OFFICIAL_FINETUNE)
    check_loss(case, loss, norm_of(ours))
    return check_gradients(case, model, names.OFFICIAL_FINETUNE, GRADIENT)


@checks(
    "videomae_v2_load_pretrained",
    not_needed={
        **STORED,
        "config.dec_*": "the decoder is left behind",
        "config.mask_*": "nothing is masked",
        "config.normlize_target": "nothing is predicted",
    },
)
def load_pretrained(case: Case) -> None:
    before = case.part("model_before")
    model = classifier(case.facts["config"], len(before["head.bias"]), mean="fc_norm.weight" in before)
    check_load(case, model, before)


def check_load(case: Case, model: models.VideoClassifier, before: dict, positions: dict = EXACT) -> None:
    """A classifier after a pretrained checkpoint is loaded over its weights `before`."""
    facts, checkpoint = case.facts, case.part("ckpt")
    models.load_weights(model, before)
    decoded = any("decoder" in name for name in checkpoint)
    for key in reversed(facts.get("wrapper_keys", ["model"])):
        checkpoint = {key: checkpoint}
    with tempfile.TemporaryDirectory() as folder:  # as a file, for the reader takes off wrappers and prefixes
        torch.save(checkpoint, Path(folder) / "checkpoint.pth")
        report = models.load_weights(model, str(Path(folder) / "checkpoint.pth"))
    ours, _ = to_theirs(names.OFFICIAL_FINETUNE, model.state_dict())
    assert ours.keys() == before.keys()
    for name in case.names("model_after"):
        case.close(name, ours[name.removeprefix("model_after/")], positions if name.endswith("/pos_embed") else EXACT)
    case.fact(facts, "loaded", official_names(report.loaded, names.OFFICIAL_FINETUNE))
    case.fact(facts, "kept", official_names(report.missing, names.OFFICIAL_FINETUNE))
    assert any("decoder" in name for name in report.unused) or not decoded
    video = case.get("input/video")
    case.close("output/logits", lambda: model(video), ACTIVATION)


@checks("k710_head_conversion")
def k710_head(case: Case) -> None:
    """The rows of a head for 710 classes that are those of another data set, in its order."""
    width = case["ckpt/head.weight"].shape[1]
    encoder = models.VideoViT(width, 1, 1, width, 2, 1, 1, 2, norm=False)
    model = models.VideoClassifier(encoder, case.facts["classes"], head_scale=1.0)
    blank, _ = to_theirs(names.OFFICIAL_FINETUNE, model.state_dict())
    models.load_weights(model, {**blank, **case.part("ckpt")}, classes=case["label_map"].tolist())
    case.close("model_after/head.weight", model.head.weight, EXACT)
    case.close("model_after/head.bias", model.head.bias, EXACT)
