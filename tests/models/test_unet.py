"""SpatioTemporalUNet: one frame is Stable Diffusion's UNet, order in time matters, images skip temporal layers."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import models
from models.diffusion import UNET_SIZES, SpatioTemporalUNet, is_temporal
from models.diffusion.convolution import convolve
from models.diffusion.transformer import TransformerBlock
from pretrain.learning import parallel

TINY = [name for name in UNET_SIZES if name.startswith("tiny")]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def unet(size: str = "tiny_base", zero_temporal: bool = False, **options) -> SpatioTemporalUNet:
    """A small network with random weights; what starts at zero is random too, unless `zero_temporal`."""
    torch.manual_seed(0)
    model = SpatioTemporalUNet(**{**UNET_SIZES[size], **options}).eval()
    if not zero_temporal:
        randomise_zeros(model)
    return model


def randomise_zeros(model: nn.Module) -> None:
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)


def inputs(model: SpatioTemporalUNet, frames: int = 4, images: int = 0, size: tuple[int, int] = (8, 8)) -> dict:
    """Random inputs of two samples."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    batch: dict = {"latents": draw(2, 4, frames + images, *size), "timestep": torch.tensor([700, 30])}
    batch |= {"text": draw(2, 1 + images, 5, model.text_width), "images": images}
    if model.condition_channels:
        batch["condition"] = draw(2, model.condition_channels, frames + images, *size)
    if model.noise_embed is not None:
        batch["noise_level"] = torch.tensor([20, 0])
    return batch


@pytest.mark.parametrize(
    ("size", "parameters", "temporal"),
    [("base", 909.12, 49.60), ("interpolation", 909.13, 49.60), ("vsr", 691.04, 217.64)],
)
def test_sizes_are_those_of_the_published_networks(size: str, parameters: float, temporal: float) -> None:
    with torch.device("meta"):
        model = SpatioTemporalUNet(**UNET_SIZES[size])
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    over_time = sum(p.numel() for name, p in model.named_parameters() if is_temporal(name)) / 1e6
    assert millions == pytest.approx(parameters, abs=0.006) and over_time == pytest.approx(temporal, abs=0.006)


def stable_diffusion(**options):
    """diffusers' UNet of images with random weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    blocks = ["CrossAttnDownBlock2D", "DownBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"]
    if options.pop("reverse", False):
        blocks = [kinds[::-1] for kinds in blocks]
    down, up = blocks
    sizes = {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 32, "norm_num_groups": 8}
    sizes |= {"attention_head_dim": (1, 2), **options}
    return UNet2DConditionModel(down_block_types=down, up_block_types=up, **sizes).eval()


@torch.no_grad()
def test_one_frame_is_stable_diffusions_unet() -> None:
    image_model, model = stable_diffusion(), unet(zero_temporal=True)
    report = models.load_weights(model, image_model.state_dict())
    assert not report.unused and report.missing and all(map(is_temporal, report.missing))
    batch = inputs(model, frames=1, size=(7, 5))
    expected = image_model(batch["latents"][:, :, 0], batch["timestep"], batch["text"][:, 0]).sample
    assert_close(model(**batch)[:, :, 0], expected, **CLOSE)


@torch.no_grad()
def test_one_frame_of_super_resolution_is_the_image_upscaler() -> None:
    options = {"in_channels": 7, "num_class_embeds": 1000, "use_linear_projection": True, "norm_num_groups": 32}
    image_model = stable_diffusion(reverse=True, only_cross_attention=(True, False), **options)
    model = unet("tiny_vsr", zero_temporal=True)
    report = models.load_weights(model, image_model.state_dict())
    assert not report.unused and all(map(is_temporal, report.missing))
    batch = inputs(model, frames=1)
    both = torch.cat((batch["latents"], batch["condition"]), dim=1)[:, :, 0]
    expected = image_model(both, batch["timestep"], batch["text"][:, 0], class_labels=batch["noise_level"]).sample
    assert_close(model(**batch)[:, :, 0], expected, **CLOSE)


@torch.no_grad()
def test_without_anything_over_time_frames_are_images() -> None:
    model = unet(temporal="none", norm_over_frames=False)
    assert not any(map(is_temporal, model.state_dict()))
    batch = inputs(model)
    frames = [model(batch["latents"][:, :, i : i + 1], batch["timestep"], batch["text"]) for i in range(4)]
    assert_close(model(**batch), torch.cat(frames, dim=2), **CLOSE)


@pytest.mark.parametrize("size", TINY)
@torch.no_grad()
def test_shuffled_frames_change_the_output(size: str) -> None:
    model = unet(size)
    batch = inputs(model)
    order = torch.tensor([2, 0, 3, 1])
    out = model(**batch)[:, :, order]
    shuffled = model(**{k: v[:, :, order] if k in ("latents", "condition") else v for k, v in batch.items()})
    assert (out - shuffled).abs().max() > 1e-3


def block_inputs(spatial: str) -> tuple[TransformerBlock, Tensor, Tensor]:
    torch.manual_seed(0)
    block = TransformerBlock(64, 2, 24, spatial=spatial)
    randomise_zeros(block)
    return block, torch.randn(2, 4 + 3, 6, 64), torch.randn(2, 1 + 3, 5, 24)


@pytest.mark.parametrize("spatial", ["self", "sparse_causal", "text"])
def test_images_give_a_blocks_temporal_layers_no_gradient(spatial: str) -> None:
    block, x, text = block_inputs(spatial)
    block(x, text, 3)[:, 4:].square().sum().backward()
    gradients = {name: p.grad for name, p in block.named_parameters()}
    over_time = {name: g for name, g in gradients.items() if is_temporal(name)}
    assert over_time and all(g is None or not g.any() for g in over_time.values())
    assert all(g is not None and g.any() for name, g in gradients.items() if name not in over_time)


@pytest.mark.parametrize("spatial", ["self", "sparse_causal", "text"])
@torch.no_grad()
def test_a_block_computes_an_image_as_if_it_were_alone(spatial: str) -> None:
    block, x, text = block_inputs(spatial)
    out = block(x, text, 3)
    assert_close(out[:, :4], block(x[:, :4], text[:, :1]), **CLOSE)
    block.temporal_attn = None
    for i in range(3):
        alone = block(x[:, 4 + i : 5 + i], text[:, 1 + i : 2 + i])
        assert_close(out[:, 4 + i : 5 + i], alone, **CLOSE)


@pytest.mark.parametrize("size", TINY)
def test_joined_images_share_the_rest_and_gradients_reach_all(size: str) -> None:
    model = unet(size)
    batch = inputs(model, images=2)
    out = model(**batch)
    assert out.shape == batch["latents"].shape
    out[:, :, 4:].square().mean().backward()
    spatial = [p.grad for name, p in model.named_parameters() if not is_temporal(name)]
    assert all(g is not None and g.any() for g in spatial)


def test_an_images_text_is_its_own() -> None:
    model = unet()
    batch = inputs(model, images=2)
    batch["text"].requires_grad_()
    model(**batch)[:, :, -1].sum().backward()
    reach = batch["text"].grad.abs().sum((0, 2, 3))  # the others' texts reach the image by the shared norms alone
    assert reach[2] > 10 * reach[1]


@pytest.mark.parametrize("size", TINY)
def test_recomputed_activations_change_nothing(size: str) -> None:
    plain, recomputed = unet(size), unet(size)
    parallel.recompute(recomputed)
    batch = inputs(plain, images=1)
    for model in (plain, recomputed):
        model(**batch).square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    layers = 2 + 2 + 4  # on the way down, in the middle and on the way up
    assert len(parallel.blocks(plain)) == layers + (2 * 5 if size == "tiny_vsr" else 0)  # two of a temporal module


@torch.no_grad()
def test_batch_rows_do_not_meet() -> None:
    model = unet("tiny_vsr")
    batch = inputs(model)
    rows = [model(**{k: v[i : i + 1] if isinstance(v, Tensor) else v for k, v in batch.items()}) for i in range(2)]
    assert_close(model(**batch), torch.cat(rows), **CLOSE)


@pytest.mark.parametrize(
    ("size", "change", "message"),
    [
        ("tiny_base", {"text": torch.zeros(2, 5, 7)}, r"text should be \[B, 1, L, 32\]"),
        ("tiny_base", {"images": 2}, r"text should be \[B, 3, L, 32\]"),
        ("tiny_base", {"images": 4}, "4 of 4 frames cannot be images"),
        ("tiny_base", {"latents": torch.zeros(2, 3, 4, 8, 8)}, r"latents should be \[B, 4, F, H, W\]"),
        ("tiny_base", {"noise_level": torch.zeros(2)}, "noise_level is not taken"),
        ("tiny_interpolation", {"condition": None}, "the condition should have 4 channels and has 0"),
        ("tiny_interpolation", {"condition": torch.zeros(2, 4, 3, 8, 8)}, "differ in size"),
        ("tiny_vsr", {"noise_level": None}, "noise_level is needed"),
    ],
)
def test_wrong_inputs_are_named(size: str, change: dict, message: str) -> None:
    model = unet(size)
    with pytest.raises(ValueError, match=message):
        model(**{**inputs(model), **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": (1, 2, 4)}, "heads has 3 values for 2 levels"),
        ({"heads": (2, 2)}, "32 rotary channels do not fit into a head of 16"),
        ({"heads": (1, 3)}, "3 heads cannot split 64 channels"),
        ({"widths": (40, 80), "temporal_res": True}, "40 channels do not divide into the 32 groups"),
    ],
)
def test_wrong_sizes_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet(**options)


@pytest.mark.parametrize("stride, size, channels_first", [(1, 4, True), (2, 4, True), (1, 24, False), (2, 24, False)])
def test_convolutions_rearrange_the_smaller_of_weights_and_pictures(
    stride: int, size: int, channels_first: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, stride=stride, padding=1)
    x = torch.randn(2, 16, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    taken: list[bool] = []
    conv.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].is_contiguous()))
    found, right = convolve(conv, x), torch.nn.functional.conv2d(x, conv.weight, conv.bias, stride, 1)
    assert taken == [channels_first] and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, right)
    variables = (x, conv.weight, conv.bias)
    gradients = [torch.autograd.grad(out.square().sum(), variables) for out in (found, right)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
