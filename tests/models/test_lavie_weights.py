"""LaVie's and Stable Diffusion's layouts: in, out, as a start for training, and as a folder of diffusers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import models
from models.convert import lavie
from models.diffusion import UNET_SIZES, SpatioTemporalUNet, is_temporal
from pretrain.export.diffusers_folder import save_folder

TINY = [name for name in UNET_SIZES if name.startswith("tiny")]


def unet(size: str = "tiny_base", seed: int = 1, **options) -> SpatioTemporalUNet:
    """A small network whose tensors are all random."""
    torch.manual_seed(seed)
    model = SpatioTemporalUNet(**{**UNET_SIZES[size], **options}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def assert_same(a: nn.Module, b: nn.Module) -> None:
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(("size", "entries"), [("base", 830), ("interpolation", 798), ("vsr", 1158)])
def test_official_layouts_have_the_published_entries(size: str, entries: int) -> None:
    with torch.device("meta"):
        official = lavie.to_official(SpatioTemporalUNet(**UNET_SIZES[size]))
    assert len(official) == entries
    block = "mid_block.attentions.0.transformer_blocks.0"
    norm = f"{block}.norm_temporal.weight" if size == "vsr" else f"{block}.norm_temp.weight"
    assert official[norm].shape == (1024 if size == "vsr" else 1280,)
    projection = official["mid_block.attentions.0.proj_in.weight"]
    assert projection.ndim == (2 if size == "vsr" else 4)


@pytest.mark.parametrize("size", TINY)
def test_official_files_load_whole_and_come_back_the_same(size: str, tmp_path: Path) -> None:
    """LaVie's files are flat, or hold the weights under `ema`, which counts where there are others too."""
    model = unet(size)
    official = lavie.to_official(model)
    other = {name: torch.zeros_like(tensor) for name, tensor in official.items()}
    torch.save(official, tmp_path / "flat.pt")
    torch.save({"model": other, "ema": official}, tmp_path / "ema.pt")
    save_file(official, tmp_path / "official.safetensors")
    save_file(model.state_dict(), tmp_path / "ours.safetensors")
    for file in sorted(tmp_path.iterdir()):
        loaded = unet(size, seed=2)
        report = models.load_weights(loaded, file)
        assert not report.missing and not report.unused, report
        assert_same(loaded, model)
    back = lavie.to_official(loaded)
    assert back.keys() == official.keys() and all(torch.equal(back[name], official[name]) for name in official)


def test_a_training_checkpoint_gives_its_weights_and_not_its_average(tmp_path: Path) -> None:
    """Our checkpoints hold the average under `ema` beside `state_dict`; the export chooses between them itself."""
    model, average = unet(), unet(seed=2)
    prefixed = [{f"unet.{name}": t for name, t in m.state_dict().items()} for m in (model, average)]
    prefixed[0]["align.weight"] = torch.ones(2)  # another part of the objective
    torch.save({"state_dict": prefixed[0], "ema": prefixed[1]}, tmp_path / "run.ckpt")
    loaded = unet(seed=3)
    report = models.load_weights(loaded, tmp_path / "run.ckpt")
    assert not report.missing and report.unused == ["align.weight"]
    assert_same(loaded, model)


class Holder(nn.Module):
    """A module that holds a network as objectives do."""

    def __init__(self, inner: SpatioTemporalUNet) -> None:
        super().__init__()
        self.unet = inner
        self.align = nn.Linear(2, 2)


def test_weights_load_into_a_module_with_a_unet() -> None:
    model, holder = unet(), Holder(unet(seed=2))
    report = models.load_weights(holder, lavie.to_official(model))
    assert report.missing == ["align.weight", "align.bias"] and not report.unused
    assert_same(holder.unet, model)
    average = {f"unet.{name}": tensor for name, tensor in model.state_dict().items()} | {"align.weight": torch.ones(2)}
    found, expected = lavie.to_official(unet(seed=3), average), lavie.to_official(model)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def stable_diffusion(folder: Path) -> dict[str, Tensor]:
    """A folder of diffusers with a small UNet of images; returns its weights."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=(1, 2),
        norm_num_groups=8,
    )
    model.save_pretrained(folder)
    return model.state_dict()


@pytest.mark.parametrize("inside", ["", "unet"])
def test_stable_diffusion_starts_all_but_what_works_over_time(inside: str, tmp_path: Path) -> None:
    weights = stable_diffusion(tmp_path / inside)
    model, fresh = unet(seed=4), unet(seed=4)
    report = models.load_weights(model, tmp_path)
    assert not report.unused and len(report.loaded) == len(weights)
    assert sorted(report.missing) == sorted(filter(is_temporal, fresh.state_dict()))
    for name in report.missing:
        assert torch.equal(model.state_dict()[name], fresh.state_dict()[name])
    kept = lavie.to_official(model)
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights.items())


def test_interpolation_starts_from_the_base() -> None:
    """The convolution gets zeros for the copied frames; the positions over time are not used."""
    base, model = unet(), unet("tiny_interpolation", seed=2)
    report = models.load_weights(model, lavie.to_official(base))
    assert not report.missing and all("time_rel_pos_bias" in name for name in report.unused) and report.unused
    weight = model.conv_in.weight
    assert torch.equal(weight[:, :4], base.conv_in.weight) and not weight[:, 4:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (64, 64)}, "is of another architecture"),
        ({"attention": (True, True)}, r"is of another UNet: down.1.blocks.0.transformer.\S+ is not in the checkpoint"),
        ({"noise_levels": 10}, r"is of another UNet: noise_embed.weight is not in the checkpoint"),
    ],
)
def test_another_network_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.load_weights(unet(**options), lavie.to_official(unet()))


def test_a_checkpoint_with_more_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"down_blocks.1.attentions.0.\S+ is not in the model"):
        models.load_weights(unet(), lavie.to_official(unet(attention=(True, True))))


def test_other_rotary_angles_are_refused_and_rounded_ones_are_not() -> None:
    official = lavie.to_official(unet())
    name = next(name for name in official if name.endswith("rotary_emb.freqs"))
    models.load_weights(unet(), {n: t.half() for n, t in official.items()})
    with pytest.raises(ValueError, match="are not the angles of rotary positions"):
        models.load_weights(unet(), {**official, name: 2 * official[name]})


CLEAN = """
import sys
sys.modules["models"] = sys.modules["pretrain"] = None  # as where this project is not installed
import torch
from diffusers import DiffusionPipeline
folder = sys.argv[1]
pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
given = torch.load(folder + "/inputs.pt")
found = pipeline.unet.eval()(**given["inputs"])
torch.testing.assert_close(found, given["out"], atol=1e-5, rtol=1e-5)
text, latents = given["inputs"]["text"], given["inputs"]["latents"]
more = {k: v for k, v in given["inputs"].items() if k in ("condition", "noise_level")}
options = dict(prompt_embeds=text, negative_prompt_embeds=0 * text[:1], latents=latents, num_inference_steps=4)
result = pipeline(**options, guidance_scale=2.0, **more)
torch.testing.assert_close(result, given["result"], atol=1e-3, rtol=1e-3)
"""


@pytest.mark.parametrize("size", [pytest.param("tiny_base", marks=pytest.mark.slow), "tiny_vsr"])
@torch.no_grad()
def test_a_folder_of_diffusers_loads_where_the_project_is_not_installed(size: str, tmp_path: Path) -> None:
    from models.diffusion import samplers, schedules

    model, folder = unet(size), tmp_path / "out"
    save_folder(model, folder)
    inputs = {"latents": torch.randn(2, 4, 3, 8, 8), "timestep": torch.tensor([5, 900]), "text": torch.randn(2, 7, 32)}
    more = {}
    if size == "tiny_vsr":
        more = {"condition": torch.randn(2, 3, 3, 8, 8), "noise_level": torch.tensor([3, 30])}
    given = {"inputs": inputs | more, "out": model(**inputs, **more)}

    def network(x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return model(x, timestep, text, **{name: torch.cat((tensor, tensor)) for name, tensor in more.items()})

    alpha_bar = schedules.alpha_bar_of(schedules.linear_betas())
    grid = schedules.leading_grid(alpha_bar, 4, offset=1, final="first")
    predict = samplers.guided(network, inputs["text"], 0 * inputs["text"][:1], 2.0)
    given["result"] = samplers.final(samplers.ddim(predict, inputs["latents"], grid))
    torch.save(given, folder / "inputs.pt")
    command = [sys.executable, "-c", CLEAN, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = unet(size, seed=2)
    assert not models.load_weights(loaded, folder).missing
    assert_same(loaded, model)
    with pytest.raises(FileExistsError, match="holds files already"):
        save_folder(model, folder)


def test_a_folder_of_diffusers_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)  # after the network and the scheduler
    with pytest.raises(OSError, match="No space left"):
        save_folder(unet("tiny_base"), tmp_path / "out")
    assert not list(tmp_path.iterdir())
