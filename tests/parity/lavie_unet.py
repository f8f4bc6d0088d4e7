"""LaVie's whole networks against the official code: predictions, guidance, joint losses and gradients."""

import torch
from torch import Tensor

import models
from models.convert import lavie as names
from models.diffusion import SpatioTemporalUNet
from models.diffusion.autoencoder import KLAutoencoder
from models.diffusion.samplers import Predict, guided
from models.diffusion.schedules import add_noise, alpha_bar_of, level_at
from models.text import CLIPText
from pretrain.learning.teachers import Frozen
from pretrain.objectives import Denoise
from tests.parity import checks
from tests.parity.case import Case, Record
from tests.parity.lavie import check_attention_off, relative, tolerance
from tests.parity.lavie_sampling import betas_of_text

FIXED = {
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "center_input_sample": False,
    "video_condition": False,
}
UNUSED = {"config.sample_size": "the networks take any size"}


def unet_of(case: Case) -> SpatioTemporalUNet:
    """The case's network with its weights, in evaluation mode; our layout gives the official one back, bit for bit."""
    c = case.facts["config"]
    for key, value in FIXED.items():
        case.fact(c, key, value)
    down = [kind.startswith("CrossAttn") for kind in c["down_block_types"]]
    case.fact(c, "up_block_types", [f"{'CrossAttn' * attends}UpBlock3D" for attends in reversed(down)])
    case.fact(c, "down_block_types", [f"{'CrossAttn' * attends}DownBlock3D" for attends in down])
    heads = c.get("attention_head_dim", 8)
    options = {
        "channels": c["out_channels"],
        "condition_channels": c["in_channels"] - c["out_channels"],
        "widths": c["block_out_channels"],
        "depth": c["layers_per_block"],
        "attention": down,
        "heads": heads,
        "text_width": c["cross_attention_dim"],
        "groups": c.get("norm_num_groups", 32),
        "eps": c.get("norm_eps", 1e-5),
        "linear_projections": c.get("use_linear_projection", False),
    }
    kind = case.facts["kind"]
    options["spatial"] = "sparse_causal" if c.get("use_first_frame", False) else first_attention(c)
    if kind.startswith("interp"):
        options |= {"temporal": "after_ff", "rotary": 0, "buckets": 0}
    if kind.startswith("vsr"):
        options |= super_resolution(case, c)
    unet = SpatioTemporalUNet(**options)
    state = case.part("state")
    report = models.load_weights(unet, state)
    assert not report.missing and not report.unused, report
    back = names.to_official(unet)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    case.fact(case.facts, "n_params", sum(tensor.numel() for tensor in unet.parameters()) + stored_angles(state))
    return unet.eval()


def first_attention(c: Record) -> str | list[str]:
    """The first attention of a block, for all levels or for each, where it is not sparse-causal."""
    only_text = c.get("only_cross_attention", False)
    kinds = {True: "text", False: "self"}
    return [kinds[only] for only in only_text] if isinstance(only_text, list) else kinds[only_text]


def stored_angles(state: dict) -> int:
    """The official networks count the angles of rotary positions, which all attentions share, once."""
    return next((tensor.numel() for name, tensor in state.items() if name.endswith("rotary_emb.freqs")), 0)


def super_resolution(case: Case, c: Record) -> dict:
    """Options that only the network of super-resolution has."""
    check_attention_off(case, c)
    return {
        "noise_levels": c["num_class_embeds"],
        "temporal_res": True,
        "down_modules": c["down_temporal_idx"],
        "up_modules": c["up_temporal_idx"],
        "mid_module": c["mid_temporal"],
    }


@checks("base_unet", "interp_unet", "vsr_unet", not_needed=UNUSED)
def predictions(case: Case) -> None:
    unet = unet_of(case)
    for c in case.facts["inputs"]:
        prefix = c["prefix"]
        latents, condition = case[f"{prefix}.sample"], case.get(f"{prefix}.low_res")
        text, timestep = case[f"{prefix}.encoder_hidden_states"], case[f"{prefix}.timestep"]
        b, _, frames, height, width = latents.shape
        case.sizes(c, batch=b, frames=frames, height=height, width=width, text_len=text.shape[1])
        case.fact(c, "timesteps", timestep.tolist())
        noise_level = case.get(f"{prefix}.noise_level")
        if noise_level is not None:
            case.fact(c, "noise_levels", noise_level.tolist())
        if condition is None and unet.condition_channels:
            latents, condition = latents[:, : unet.channels], latents[:, unet.channels :]
        with torch.no_grad():
            out = unet(latents, timestep, text, condition=condition, noise_level=noise_level)
        case.close(f"{prefix}.out", out, tolerance(case.facts))
    if "guidance" in case.facts:
        check_guidance(case, unet, case.facts["guidance"])


def check_guidance(case: Case, unet: SpatioTemporalUNet, c: Record) -> None:
    """The official function computes the first half of its rows with both texts, and returns the result twice."""
    prefix = c["prefix"]
    case.fact(c, "order", "conditioned rows first, unconditioned rows second; both output halves equal")
    x, _ = case[f"{prefix}.sample"].chunk(2)
    text, null = case[f"{prefix}.encoder_hidden_states"].chunk(2)
    timestep, _ = case[f"{prefix}.timestep"].chunk(2)
    out = guide(unet, x[:, unet.channels :], text, null, c["cfg_scale"])(x[:, : unet.channels], timestep)
    case.close(f"{prefix}.out", torch.cat((out, out)), tolerance(case.facts))


def guide(unet: SpatioTemporalUNet, condition: Tensor | None, text: Tensor, null: Tensor, scale: float) -> Predict:
    """A network under guidance, as samplers take it, with the same condition for each text."""

    @torch.no_grad()
    def network(x, timestep, text):
        repeated = None if condition is None else condition.repeat(len(x) // len(condition), 1, 1, 1, 1)
        return unet(x, timestep, text, condition=repeated)

    return guided(network, text, null, scale)


def denoiser(unet: SpatioTemporalUNet, image_weight: float) -> Denoise:
    """The objective around a network; its teachers are not used where latents and text states are given."""
    text = CLIPText(unet.text_width, depth=1, heads=1, mlp=8, out=8, vocabulary=8, context=8)
    vae = KLAutoencoder(widths=(8,), depth=1, channels=unet.channels, groups=4)
    return Denoise(unet, Frozen(vae, random=0), Frozen(text, random=0), image_weight=image_weight)


@checks("base_joint_training", not_needed=UNUSED)
def joint_training(case: Case) -> None:
    """The loss of a video and of images joined behind it, and its gradients."""
    facts, unet = case.facts, unet_of(case)
    x0, noise, timestep, images = case["x0"], case["noise"], case["timestep"], facts["images"]
    frames = x0.shape[2] - images
    case.sizes(facts, batch=len(x0), frames=frames)
    case.fact(facts, "timesteps", timestep.tolist())
    alpha_bar = alpha_bar_of(betas_of_text(facts["betas"]))
    xt = add_noise(x0, noise, level_at(alpha_bar, timestep))
    case.close("xt", xt, relative(facts, case["xt"]))
    text = case["encoder_hidden_states"]
    case.close("out", unet(xt, timestep, text, images), relative(facts, case["out"]))
    objective = denoiser(unet, facts["alpha"])
    torch.testing.assert_close(objective.alpha_bar, alpha_bar)
    losses = objective.joint_losses(objective.errors(x0, noise, timestep, images, text), images)
    video, still = losses["video"], losses.get("images", torch.zeros(()))
    if facts["alpha"]:
        case.close("loss_image", still / facts["alpha"], relative(facts, case["loss_image"]))
    for name, value in (("loss_video", video), ("loss", video + still)):
        case.close(name, value, relative(facts, case[name]))
    sum(losses.values()).backward()
    gradients = names.to_official(unet, {name: p.grad for name, p in unet.named_parameters() if p.grad is not None})
    for name in facts["gradients"]:
        case.close(f"grad.{name}", gradients[name], relative(facts, case[f"grad.{name}"]))
