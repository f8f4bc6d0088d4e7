"""Ours equals the official code: one test a reference case, `pytest tests/test_parity.py --references DIR`.

A case is NAME.json (its `kind` and configuration) and NAME.safetensors (weights, inputs, outputs of the official code).
Those without a kind are video-language cases, known by the beginning of their names (tests/parity). A kind that is
known nowhere fails.
"""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.testing import assert_close

import models
from datamodules.clips import crops, sampling
from models.convert import clip as clip_names
from models.convert import umt as umt_names
from models.convert import videomae as names
from models.convert.rules import to_ours, to_theirs
from models.layers import FixedPositions, sinusoid_table
from pretrain.learning.losses import alignment
from pretrain.learning.masking import Attention, Random, RunningCell, Tube, unseen_first
from pretrain.learning.mixup import Mix, blend, opposite
from pretrain.learning.optim import AdamW, cosine, layer_of, parameter_groups
from pretrain.learning.teachers import Frozen
from pretrain.objectives import UMT, Classify, VideoMAE
from pretrain.objectives.umt import last_blocks, resize_frames
from tests.parity import check_of, part

# Tolerances of the references' README: fp32 on any CPU.
ACTIVATION = {"atol": 5e-5, "rtol": 1e-4}
LOSS = {"atol": 1e-5, "rtol": 1e-5}
GRADIENT = {"atol": 2e-5, "rtol": 1e-4}
STEPPED = {"atol": 5e-4, "rtol": 0}
TABLE = {"atol": 1e-6, "rtol": 0}
EXACT = {"atol": 0, "rtol": 0}

CHECKS = {}


def checks(*kinds: str):
    """Register a function as the check of these kinds of case."""
    return lambda function: CHECKS.update({kind: function for kind in kinds}) or function


def test_reference(case: Path) -> None:
    facts = json.loads(case.read_text())
    kind = facts.get("kind")
    check = CHECKS.get(kind) or check_of(facts.get("name", case.stem))
    if check is None:
        pytest.fail(f"no check for cases of kind {kind or facts.get('name')!r}")
    tensors = case.with_suffix(".safetensors")
    check(facts, load_file(tensors) if tensors.exists() else {})


def indices(marks: torch.Tensor) -> torch.Tensor:
    """Boolean `[B, N]` with as many marks a row, to indices `[B, K]` in raster order."""
    return marks.nonzero()[:, 1].view(len(marks), -1)


def backbone(config: dict, **options) -> dict:
    width = config["embed_dim"]
    return {
        "width": width,
        "depth": config["depth"],
        "heads": config["heads"],
        "mlp": int(width * config["mlp_ratio"]),
        "patch": config["patch_size"],
        "tubelet": config.get("tubelet_size", 2),
        "frames": config["frames"],
        "size": config["img_size"],
        "layer_scale": config.get("init_values", 0.0),
        "cosine": config.get("cos_attn", False),
        **options,
    }


def videomae(config: dict, weights: dict, optim: AdamW | None = None) -> VideoMAE:
    """A VideoMAE of a case's sizes with its official weights; every key must find its place."""
    encoder = backbone(config)
    sizes = {name: encoder[name] for name in ("patch", "tubelet", "frames", "size", "layer_scale", "cosine")}
    width = config["dec_dim"]
    decoder = models.PixelDecoder(
        encoder["width"], width, config["dec_depth"], config["dec_heads"], int(width * config["mlp_ratio"]), **sizes
    )
    model = VideoMAE(
        models.VideoViT(**encoder), decoder, normalize_target=config.get("normlize_target", True), optim=optim
    )
    report = models.load_weights(model, weights)
    assert not report.unused and not report.missing, report
    return model


def official_gradients(model: torch.nn.Module, rules: dict) -> dict:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return to_theirs(rules, gradients)[0]


@checks("videomae_v2_pretrain")
def videomae_pretrain(facts: dict, t: dict) -> None:
    model = videomae(facts["config"], part(t, "model"))
    video, hidden, skipped = t["input/video"], t["input/encoder_mask"], t["input/decoder_mask"]
    keep, predict = indices(~hidden), indices(~skipped)
    tokens = model.encoder(video, keep)
    assert_close(tokens, t["output/encoder_tokens"], **ACTIVATION)
    assert_close(model.decoder(tokens, keep, predict), t["output/pred"], **ACTIVATION)
    assert_close(model.target(video, predict), t["target/labels"], **ACTIVATION)
    assert torch.equal(
        unseen_first(predict, keep, hidden.shape[1])[1].bool().sum(1), t["target/loss_token_mask"].sum(1)
    )

    # Reading only the tokens that can be in the loss must not change it.
    most = int(t["target/loss_token_mask"].sum(1).max())
    for read in (None, most):
        model.zero_grad()
        loss = model.reconstruction_loss(video, keep, predict, read)
        loss.backward()
        assert_close(loss, t["loss"], **LOSS)
        ours = official_gradients(model, names.OFFICIAL_PRETRAIN)
        for name, gradient in part(t, "grad").items():
            assert_close(ours[name], gradient, **GRADIENT, msg=lambda m, name=name: f"gradient of {name}: {m}")
        norm = torch.stack([g.norm() for g in ours.values()]).norm()
        assert_close(norm, t["grad_norm"], **GRADIENT)


@checks("videomae_v2_pretrain_steps")
def videomae_pretrain_steps(facts: dict, t: dict) -> None:
    settings = facts["optimizer"]
    optim = AdamW(
        base_lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        betas=tuple(settings["opt_betas"]),
        eps=settings["opt_eps"],
    )
    model = videomae(facts["config"], part(t, "model"), optim)
    optimizer = optim.build(model)
    still = {p for group in optimizer.param_groups if not group["decays"] for p in group["params"]}
    flat, _ = to_theirs(names.OFFICIAL_PRETRAIN, {n: torch.empty(0) for n, p in model.named_parameters() if p in still})
    assert sorted(flat) == sorted(facts["no_weight_decay_params"])
    for step, expected in enumerate(facts["losses"]):
        for group in optimizer.param_groups:
            group["lr"] = facts["lr_per_step"][step] * group["lr_scale"]
            group["weight_decay"] = facts["wd_per_step"][step] if group["decays"] else 0.0
        x = part(t, f"input/step{step}")
        keep, predict = indices(~x["encoder_mask"]), indices(~x["decoder_mask"])
        loss = model.reconstruction_loss(x["video"], keep, predict)
        assert_close(loss.item(), expected, **LOSS)
        loss.backward()
        limit = facts["clip_grad"] or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        assert_close(norm.item(), facts["grad_norms_before_clipping"][step], **GRADIENT)
        optimizer.step()
        optimizer.zero_grad()
    after, _ = to_theirs(names.OFFICIAL_PRETRAIN, model.state_dict())
    for name, tensor in part(t, "after").items():
        assert_close(after[name], tensor, **STEPPED, msg=lambda m, name=name: f"{name} after the steps: {m}")


def classifier(config: dict, classes: int, mean: bool) -> models.VideoClassifier:
    return models.VideoClassifier(models.VideoViT(**backbone(config, norm=not mean)), classes, mean)


@checks("videomae_v2_finetune")
def videomae_finetune(facts: dict, t: dict) -> None:
    config = facts["config"]
    model = classifier(config, config["classes"], config["mean_pool"])
    report = models.load_weights(model, part(t, "model"))
    assert not report.unused and not report.missing, report
    assert_close(model.features(t["input/video"]), t["output/features"], **ACTIVATION)
    logits = model(t["input/video"])
    assert_close(logits, t["output/logits"], **ACTIVATION)
    smooth = F.cross_entropy(logits, t["input/labels"], label_smoothing=0.1)
    assert_close(smooth, t["loss_label_smoothing_0.1"], **LOSS)
    loss = F.cross_entropy(logits, t["input/labels"])
    assert_close(loss, t["loss"], **LOSS)
    loss.backward()
    ours = official_gradients(model, names.OFFICIAL_FINETUNE)
    for name, gradient in part(t, "grad").items():
        assert_close(ours[name], gradient, **GRADIENT, msg=lambda m, name=name: f"gradient of {name}: {m}")


@checks("videomae_v2_load_pretrained")
def videomae_load(facts: dict, t: dict) -> None:
    before, after = part(t, "model_before"), part(t, "model_after")
    model = classifier(facts["config"], len(before["head.bias"]), mean="fc_norm.weight" in before)
    models.load_weights(model, before)
    checkpoint = part(t, "ckpt")
    for key in reversed(facts["wrapper_keys"]):
        checkpoint = {key: checkpoint}
    report = models.load_weights(model, _saved(checkpoint))
    ours, _ = to_theirs(names.OFFICIAL_FINETUNE, model.state_dict())
    assert ours.keys() == after.keys()
    for name, tensor in after.items():
        assert_close(ours[name], tensor, **EXACT)
    loaded, _ = to_theirs(names.OFFICIAL_FINETUNE, {name: torch.empty(0) for name in report.loaded})
    kept, _ = to_theirs(names.OFFICIAL_FINETUNE, {name: torch.empty(0) for name in report.missing})
    assert sorted(loaded) == sorted(facts["loaded"]) and sorted(kept) == sorted(facts["kept"])
    assert any("decoder" in name for name in report.unused)
    outputs = part(t, "output")
    if "logits" in outputs:
        assert_close(model(t["input/video"]), outputs["logits"], **ACTIVATION)


def _saved(checkpoint: dict) -> str:
    """The checkpoint as a file, since wrappers and prefixes are the reader's business."""
    import tempfile

    path = Path(tempfile.mkdtemp()) / "checkpoint.pth"
    torch.save(checkpoint, path)
    return str(path)


@checks("k710_head_conversion")
def k710_head(facts: dict, t: dict) -> None:
    width = t["ckpt/head.weight"].shape[1]
    model = models.VideoClassifier(
        models.VideoViT(width, 1, 1, width, 2, 1, 1, 2, norm=False), facts["classes"], head_scale=1.0
    )
    blank, _ = to_theirs(names.OFFICIAL_FINETUNE, model.state_dict())
    models.load_weights(model, {**blank, **part(t, "ckpt")}, classes=t["label_map"].tolist())
    assert torch.equal(model.head.weight, t["model_after/head.weight"])
    assert torch.equal(model.head.bias, t["model_after/head.bias"])


@checks("sinusoid_table")
def sinusoid(facts: dict, t: dict) -> None:
    for name, rows in t.items():
        if found := re.fullmatch(r"table_(\d+)x(\d+)_rows", name):
            size = int(found[1]), int(found[2])
            table = sinusoid_table(*size)
            chosen = t.get(f"rows_{size[0]}x{size[1]}", torch.arange(size[0]))
            assert_close(table[chosen], rows, **TABLE)
            assert_close(table.double().sum(), t[f"sum_{size[0]}x{size[1]}"], atol=1e-3, rtol=0)


@checks("running_cell_mask")
def running_cell(facts: dict, t: dict) -> None:
    for c in facts["cases"]:
        grid, ratio = tuple(c["size_t_h_w"]), c["ratio"]
        key = "x".join(map(str, grid)) + f"_r{ratio}"
        mask, tokens = RunningCell(ratio), grid[0] * grid[1] * grid[2]
        maps = mask.maps(grid)
        assert torch.equal(maps, t[f"all/{key}"].flatten(1))
        assert (maps.sum(1) == c["masked_per_sample"]).all()
        for seed in facts["seeds"]:
            rng = np.random.RandomState(seed)
            draws = torch.tensor([rng.randint(4) for _ in range(3)])
            decoded = mask((draws[:, None] + 0.5) / 4, grid)
            undecoded = torch.ones(3, tokens, dtype=torch.bool).scatter(1, decoded, False)
            assert torch.equal(undecoded, t[f"draw/{key}_seed{seed}"].flatten(1))


@checks("tube_and_random_mask")
def tube_and_random(facts: dict, t: dict) -> None:
    for c in facts["cases"]:
        grid, ratio = tuple(c["size_t_h_w"]), c["ratio"]
        tokens = grid[0] * grid[1] * grid[2]
        for seed in facts["seeds"]:
            for name, mask in {"tube": Tube(ratio), "random": Random(ratio)}.items():
                # A shuffle of zeros and ones is a ranking of places: a permutation serves as noise.
                rng = np.random.RandomState(seed)
                noise = torch.stack([torch.from_numpy(rng.permutation(mask.width(grid))) for _ in range(2)])
                hidden = torch.ones(2, tokens, dtype=torch.bool).scatter(1, mask(noise, grid), False)
                assert torch.equal(hidden, t[f"{name}/{'x'.join(map(str, grid))}_r{ratio}_seed{seed}"].flatten(1))


@checks("frame_and_crop_sampling")
def videomae_sampling(facts: dict, t: dict) -> None:
    seeded = np.random.RandomState
    for c in facts["pretrain"]:
        index = sampling.dense(c["video_len"], c["frames"], c["stride"], seeded(c["seed"]))
        assert index.tolist() == c["indices"], c
    for c in facts["classification_dense"]:
        rng = seeded(c["seed"]) if c["mode"] == "train" else None
        assert sampling.span(c["video_len"], c["clip_len"], c["stride"], rng).tolist() == c["indices"], c
    for c in facts["rawframes_sparse"]:
        frames, segments = c["num_frames"], c["segments"]
        if c["mode"] == "test":
            index = sampling.segments_view(frames, 2 * segments, 0, 1)
        else:
            index = sampling.raw_segments(frames, segments, seeded(c["seed"]) if c["mode"] == "train" else None)
        assert (index + 1).tolist() == c["indices"], c  # files of extracted frames count from 1
    for c in (facts["classification_test_views_dense"], facts["classification_test_views_sparse"]):
        for v in c["views"]:
            clip, which = (v["video_len"], c["clip_len"]), (v["temporal_view"], c["n_temporal"])
            view = (
                sampling.segments_view(*clip, *which)
                if c["sparse"]
                else sampling.dense_view(*clip, c["stride"], *which)
            )
            assert view.tolist() == v["frames"], v
            assert crops.view_offset(*c["frame_hw"], v["spatial_view"], c["n_spatial"]) == (v["top"], v["left"]), v
    for c in facts["multi_scale_crop"]:
        rng = random.Random(c["seed"])
        for box in c["crop_w_h_left_top"]:
            assert list(crops.MultiScaleCrop().box(*c["image_w_h"], c["input_size"], rng)) == box, c


@checks("frame_sampling")
def umt_sampling(facts: dict, t: dict) -> None:
    seeded = np.random.RandomState
    for c in facts["kinetics_sparse"]:
        rng = random.Random(c["seed"]) if c["mode"] == "train" else None
        index = sampling.spaced(c["video_len"], c["frames"], rng, c.get("temporal_view", 0), c.get("of", 1))
        assert index.tolist() == c["indices"], c
    for c in facts["pretrain_sparse"] + facts["ssv2"]:
        length, segments, mode = c["video_len"], c["segments"], c.get("mode", "train")
        if mode == "train":
            index = sampling.segments(length, segments, seeded(c["seed"]))
        elif mode == "validation":
            index = sampling.segments_centre(length, segments)
        else:
            index = sampling.segments_view(length, 2 * segments, 0, 1)
        assert index.tolist() == c["indices"], c


@checks("cosine_scheduler")
def cosine_schedule(facts: dict, t: dict) -> None:
    for i, c in enumerate(facts["cases"]):
        a_epoch = c["niter_per_ep"]
        warmup = c.get("warmup_epochs", 0) * a_epoch
        if warmup and c.get("warmup_steps", -1) > 0:
            warmup = c["warmup_steps"]
        total, start = c["epochs"] * a_epoch, c.get("start_warmup_value", 0.0)
        ours = [cosine(step, total, warmup, c["base_value"], c["final_value"], start) for step in range(total)]
        assert_close(torch.tensor(ours, dtype=torch.float64), t[f"case{i}"], atol=1e-12, rtol=1e-9)


@checks("param_groups")
def groups(facts: dict, t: dict) -> None:
    for name, c in facts.items():
        if not isinstance(c, dict) or "groups_in_order" not in c:
            continue
        listed = [member for group in c["groups_in_order"] for member in group["params"]]
        # Matrices have two dimensions and the rest one, unless a name says otherwise; the order is that of the model.
        order = list(c["per_param"]) if set(c["per_param"]) == set(listed) else listed
        matrices = {m for g in c["groups_in_order"] if g["weight_decay"] for m in g["params"]}
        named = [(n, torch.nn.Parameter(torch.empty((2, 2) if _matrix(n, matrices) else 2))) for n in order]
        ours = parameter_groups(named, c["weight_decay"], c["layer_decay"] or 1.0)
        back = {id(parameter): n for n, parameter in named}
        ours = {(round(g["lr_scale"], 12), g["weight_decay"]): sorted(back[id(p)] for p in g["params"]) for g in ours}
        theirs = {(round(g["lr_scale"], 12), g["weight_decay"]): sorted(g["params"]) for g in c["groups_in_order"]}
        assert ours == theirs, name
        if c["layer_decay"]:
            depth = len(c["scales_by_layer_id"]) - 2
            for n, expected in c["per_param"].items():
                assert layer_of(n, depth) == expected["layer_id"], n


def _matrix(name: str, matrices: set[str]) -> bool:
    """Tokens and tables are no vectors, and yet do not decay: their names must tell."""
    return name in matrices or name.rpartition(".")[2] in ("mask_token", "pos_embed", "scale")


@checks("hf_export_pretrain")
def transformers_pretrain(facts: dict, t: dict) -> None:
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    model = videomae({**facts["config"], "init_values": 0.0}, part(t, "model"))
    video, hidden = t["input/video_b_c_t_h_w"], t["input/bool_masked_pos"]
    keep, masked = indices(~hidden), indices(hidden)
    with torch.no_grad():
        pred = model.decoder(model.encoder(video, keep), keep, masked)
        assert_close(pred, t["output/official_pred"], **ACTIVATION)

        theirs = VideoMAEForPreTraining(VideoMAEConfig(**facts["hf_config"])).eval()
        state, unknown = to_theirs(names.TRANSFORMERS, model.state_dict())
        assert not unknown and sorted(state) == sorted(facts["v4_keys"])
        _into_transformers(theirs, state)
        output = theirs(video.transpose(1, 2), bool_masked_pos=hidden)
        assert_close(output.logits, pred, atol=1e-5, rtol=0)
        assert_close(output.loss, t["output/hf_loss"], **LOSS)
        assert_close(model.reconstruction_loss(video, keep, masked), t["output/hf_loss"], **LOSS)
    back, _ = to_ours(names.TRANSFORMERS, state)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.items())


@checks("hf_export_classifier")
def transformers_classifier(facts: dict, t: dict) -> None:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = facts["config"]
    model = classifier(config, config["classes"], mean=True)
    report = models.load_weights(model, part(t, "model"))
    assert not report.unused and not report.missing, report
    video = t["input/video_b_c_t_h_w"]
    with torch.no_grad():
        logits = model(video)
        assert_close(logits, t["output/official_logits"], **ACTIVATION)
        hf_config = VideoMAEConfig(**facts["hf_config"], num_labels=config["classes"])
        theirs = VideoMAEForVideoClassification(hf_config).eval()
        state, unknown = to_theirs(names.TRANSFORMERS, model.state_dict())
        assert not unknown
        _into_transformers(theirs, state)
        assert_close(theirs(video.transpose(1, 2)).logits, logits, atol=1e-5, rtol=0)


def _into_transformers(model: torch.nn.Module, state: dict) -> None:
    """Names on disk into a live transformers model, which may spell two of them otherwise; none may be left."""
    live = {names.on_disk_name(name): name for name in model.state_dict()}
    fixed = {name for name in live if "position_embeddings" in name}
    assert live.keys() - fixed == state.keys()
    model.load_state_dict({live[name]: tensor for name, tensor in state.items()}, strict=False)


def reference_noise(seed: int, shape: torch.Size) -> torch.Tensor:
    """The uniform numbers whose exponentials `torch.multinomial` draws from `seed` on a CPU."""
    torch.manual_seed(seed)
    return -torch.expm1(-torch.empty(shape).exponential_(1).double())


def hidden_by(keep: torch.Tensor, tokens: int) -> torch.Tensor:
    return torch.ones(len(keep), tokens, dtype=torch.bool).scatter(1, keep, False)


@checks("umt_attention_mask")
def attention_mask(facts: dict, t: dict) -> None:
    for i, c in enumerate(facts["cases"]):
        attention = t[f"case{i}/cls_attention"]
        noise = reference_noise(c["seed"], attention.shape)
        rows, tokens = c["batch"], c["frames"] * c["patches_per_frame"]
        grid = c["frames"], 1, c["patches_per_frame"]
        mask = Attention(c["mask_ratio"])
        keep = mask(noise.view(rows, -1), grid, attention.view(rows, c["frames"], -1))
        assert torch.equal(hidden_by(keep, tokens), t[f"case{i}/bool_masked"])
        per_frame = (keep // c["patches_per_frame"]).view(rows, c["frames"], -1)
        assert per_frame.shape[2] == c["n_visible_per_frame"] and (per_frame == per_frame[..., :1]).all()


@checks("umt_attention_mask_marginals")
def attention_mask_marginals(facts: dict, t: dict) -> None:
    draws, n, keep = facts["draws"], facts["n"], facts["keep"]
    noise = torch.rand(draws, n, generator=torch.Generator().manual_seed(0))
    mask = Attention(1 - keep / n + 1e-9)
    chosen = mask(noise, (1, 1, n), t["cls_attention"].expand(draws, 1, n))
    assert chosen.shape == (draws, keep)
    ours, theirs = torch.bincount(chosen.flatten(), minlength=n) / draws, t["visible_frequency"]
    error = (theirs * (1 - theirs) * 2 / draws).sqrt() + 1 / draws
    assert ((ours - theirs).abs() < 5 * error).all()


def clip_tower(config: dict, weights: dict) -> models.CLIPVision:
    """A vision tower of a case's sizes with its official weights; every key must find its place."""
    mlp = weights["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    sizes = config["width"], config["layers"], config["heads"], mlp, config["patch"], config["res"], config["out"]
    model = models.CLIPVision(*sizes)
    report = models.load_weights(model, weights)
    assert not report.unused and not report.missing, report
    return model.eval()


def unit(layers: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([F.normalize(layer, dim=-1) for layer in layers])


@checks("clip_teacher", "clip_teacher_load")
def clip_teacher(facts: dict, t: dict) -> None:
    config, video = facts["config"], t["input/video"]
    model = clip_tower(config, part(t, "teacher") or part(t, "ckpt"))
    ours, _ = to_theirs(clip_names.OPENAI_VISUAL, model.state_dict())
    for name, tensor in part(t, "loaded").items():
        assert_close(ours[name].view_as(tensor), tensor, **TABLE)
    taps = last_blocks(config["layers"], config["return_layers"], config.get("interval", 1))
    if "returned_layers_ascending" in facts:
        assert list(taps) == facts["returned_layers_ascending"]
    expected = part(t, "output")
    with torch.no_grad():
        seen = model(video, taps=taps)
        assert_close(unit(seen.features), expected["features"], **ACTIVATION)
        if "features_unnormalised" in expected:
            assert_close(torch.stack(seen.features), expected["features_unnormalised"], **ACTIVATION)
        assert_close(seen.attention.flatten(0, 1), expected["cls_attention"], **ACTIVATION)
        if "features_masked_input" in expected:
            keep = indices(~t["input/mask"])
            part_seen = model(video, keep, taps)
            assert_close(unit(part_seen.features), expected["features_masked_input"], **ACTIVATION)
            assert_close(part_seen.attention.flatten(0, 1), expected["cls_attention_masked_input"], **ACTIVATION)
            # Choosing what is read after the fact, by either path, gives what reading all and picking gives.
            for even in (True, False):
                some = model(video, None, taps, lambda _: keep, even)
                assert torch.equal(some.keep, keep)
                picked = expected["features"].take_along_dim(keep[None, ..., None], 2)
                assert_close(unit(some.features), picked, **ACTIVATION)


def student(config: dict, weights: dict, teacher: models.CLIPVision | None = None) -> UMT:
    """A UMT of a case's sizes with its official weights; without a teacher, one that is never asked."""
    learnt = config.get("learnable_pos", False)
    encoder = backbone({"mlp_ratio": 4, "tubelet_size": 1, **config}, learn_positions=learnt)
    sizes = {name: encoder[name] for name in ("patch", "tubelet", "frames", "size")}
    layers, out = config["return_layers"], config["out"]
    decoder = models.FeatureDecoder(encoder["width"], out, layers, **sizes)
    if teacher is None:
        teacher = models.CLIPVision(8, config["depth"], 1, 8, sizes["patch"], sizes["size"], out)
    frozen = Frozen(teacher, weights="never read")
    frozen.weights = None
    model = UMT(
        models.VideoViT(**encoder),
        decoder,
        frozen,
        Attention(config["mask_ratio"]),
        config.get("interval", 1),
        config["loss"],
    )
    report = models.load_weights(model, weights)
    assert not report.unused and not report.missing, report
    return model


def check_student(model: UMT, facts: dict, t: dict, target: list[torch.Tensor], keep: torch.Tensor) -> None:
    """Features, loss and gradients of the student, given what it sees and should say."""
    _, layers = model.encoder(t["input/video"], keep, model.taps)
    if "output/encoder_layers_normed" in t:
        assert_close(torch.stack(layers), t["output/encoder_layers_normed"], **ACTIVATION)
    features = model.decoder(layers, keep)
    assert_close(unit(features), t["output/student_features"], **ACTIVATION)
    loss = alignment(features, target, model.loss)
    assert_close(loss, t["loss"].view(()), **LOSS)
    assert_close(loss.item(), facts["loss"], **LOSS)
    model.zero_grad()
    loss.backward()
    ours = official_gradients(model, umt_names.OFFICIAL_PRETRAIN)
    assert len(ours) == len([p for p in model.parameters() if p.requires_grad])
    for name, gradient in part(t, "grad").items():
        assert_close(ours[name], gradient, **GRADIENT, msg=lambda m, name=name: f"gradient of {name}: {m}")
    assert_close(torch.stack([g.norm() for g in ours.values()]).norm(), t["grad_norm"], **GRADIENT)


@checks("umt_student_distill")
def umt_student(facts: dict, t: dict) -> None:
    config = facts["config"]
    model = student(config, part(t, "student"))
    assert list(model.taps) == facts.get("returned_layers_ascending", list(model.taps))
    attention = t["input/cls_attention"]
    noise = reference_noise(config["mask_seed"], attention.shape).view(config["batch"], -1)
    keep = model.mask(noise, model.encoder.grid, attention.view(config["batch"], config["frames"], -1))
    assert torch.equal(hidden_by(keep, noise.shape[1]), t["mask/bool_masked"])
    target = list(t["input/teacher_features"].take_along_dim(keep[None, ..., None], 2))
    assert_close(torch.stack(target), t["target/features"], **EXACT)
    check_student(model, facts, t, target, keep)


@checks("umt_end_to_end")
def umt_end_to_end(facts: dict, t: dict) -> None:
    config = facts["student"]
    model = student(config, part(t, "student"), clip_tower(facts["teacher"], part(t, "teacher")))
    video = t["input/video"]
    assert_close(resize_frames(video, facts["teacher"]["res"]), t["teacher_input/video"], **ACTIVATION)
    everything = model.teacher(t["teacher_input/video"], taps=model.teacher_taps)
    assert_close(everything.attention.flatten(0, 1), t["output/cls_attention"], **ACTIVATION)
    assert_close(unit(everything.features), t["output/teacher_features"], **ACTIVATION)
    noise = reference_noise(config["mask_seed"], t["output/cls_attention"].shape).view(len(video), -1)
    target, keep = model.teach(video, noise)
    assert torch.equal(hidden_by(keep, noise.shape[1]), t["mask/bool_masked"])
    assert_close(unit(target), t["target/features"], **ACTIVATION)
    check_student(model, facts, t, target, keep)


def umt_classifier(config: dict) -> models.VideoClassifier:
    """Official fine-tuning always starts from the table of 8 x 14 x 14 tokens, resized where the grid differs."""
    learnt = config.get("learnable_pos", False)
    encoder = backbone({"mlp_ratio": 4, "tubelet_size": 1, **config}, norm=False, learn_positions=learnt)
    return models.VideoClassifier(models.VideoViT(**encoder, made_for=(8, 14, 14)), config["classes"])


@checks("umt_finetune")
def umt_finetune(facts: dict, t: dict) -> None:
    model, weights = umt_classifier(facts["config"]), part(t, "model")
    if facts["pos_embed_is_parameter"] and not facts["config"].get("random_pos"):
        assert_close(model.encoder.positions.table, weights["pos_embed"][0], **TABLE)
    report = models.load_weights(model, weights)
    assert not report.unused and not report.missing, report
    assert_close(model.features(t["input/video"]), t["output/features"], **ACTIVATION)
    logits = model(t["input/video"])
    assert_close(logits, t["output/logits"], **ACTIVATION)
    loss = F.cross_entropy(logits, t["input/labels"])
    assert_close(loss, t["loss"].view(()), **LOSS)
    loss.backward()
    ours = official_gradients(model, names.OFFICIAL_FINETUNE)
    assert "pos_embed" not in ours
    for name, gradient in part(t, "grad").items():
        assert_close(ours[name], gradient, **GRADIENT, msg=lambda m, name=name: f"gradient of {name}: {m}")


@checks("umt_load_pretrained")
def umt_load(facts: dict, t: dict) -> None:
    before, after = part(t, "model_before"), part(t, "model_after")
    model = umt_classifier(facts["classifier"])
    models.load_weights(model, before)
    report = models.load_weights(model, _saved({"model": part(t, "ckpt")}))
    ours, _ = to_theirs(names.OFFICIAL_FINETUNE, model.state_dict())
    assert ours.keys() == after.keys()
    for name, tensor in after.items():
        assert_close(ours[name], tensor, **(TABLE if name == "pos_embed" else EXACT))
    loaded, _ = to_theirs(names.OFFICIAL_FINETUNE, {name: torch.empty(1) for name in report.loaded})
    kept, _ = to_theirs(names.OFFICIAL_FINETUNE, {name: torch.empty(1) for name in report.missing})
    assert sorted(loaded) == sorted(facts["loaded"]) and sorted(kept) == sorted(facts["kept"])


@checks("umt_sinusoid_interpolated")
def sinusoid_interpolated(facts: dict, t: dict) -> None:
    for i, c in enumerate(facts["cases"]):
        positions = FixedPositions((c["frames"], c["side"], c["side"]), c["dim"], made_for=(8, 14, 14))
        assert_close(positions.table, t[f"case{i}/table"], **TABLE)
        assert bool(positions.state_dict()) == c["is_parameter"]


@checks("mixup_cutmix_batch")
def mixup_and_cutmix(facts: dict, t: dict) -> None:
    a = facts["args"]
    assert a["mode"] == "batch"
    mix = Mix(a["mixup_alpha"], a["cutmix_alpha"], a["prob"], a["switch_prob"], together=True)
    model = models.VideoClassifier(models.VideoViT(8, 1, 1, 8, 8, 1, 1, 8), facts["classes"])
    objective = Classify(model, smoothing=a["label_smoothing"])
    for seed in (c["seed"] for c in facts["cases"]):
        video, labels = t[f"seed{seed}/video"], t[f"seed{seed}/labels"]
        draw = mix.draw(np.random.RandomState(seed), *video.shape[3:])
        made, share = blend(video, opposite(video), [draw] * len(video))
        target, _ = objective.targets({"label": labels})
        target = target * share + opposite(target) * (1 - share)
        assert_close(made, t[f"seed{seed}/mixed_video"], atol=1e-6, rtol=0)
        assert_close(target, t[f"seed{seed}/mixed_target"], atol=1e-6, rtol=0)
