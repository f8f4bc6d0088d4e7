"""VBench's models: official weights find their place, and outputs equal those of the official implementations."""

import open_clip
import pytest
import timm
import torch
from torch import Tensor

from pretrain.metrics.vbench.clip_towers import Towers
from pretrain.metrics.vbench.dino import DINO
from pretrain.metrics.vbench.models import Models
from pretrain.metrics.vbench.musiq import MUSIQ
from pretrain.metrics.vbench.musiq_patches import multiscale_patches
from pretrain.metrics.vbench.raft import RAFT, torchvision_name, translate
from pretrain.metrics.vbench.weights import WEIGHTS, absent, cache_folder, check, locate
from tests.helpers.formula_weights import formula_weights, wave

# Scores of pyiqa 0.1.16's MUSIQ with two layers, its weights and the frames being those of `formula_weights`.
PYIQA = {(64, 80): -2.347095251083374, (300, 512): -2.3363869190216064, (90, 40): -2.3344407081604004}
# Flow of VBench's RAFT (large, 3 iterations) at every 64th row and 68th column, likewise.
OFFICIAL_FLOW = [
    [[-14.392791748046875, -32.72287368774414], [1.2373058795928955, 18.867233276367188]],
    [[-1.7789974212646484, 6.359574317932129], [0.3799631595611572, -22.37765884399414]],
]


@pytest.mark.parametrize("size", list(PYIQA))
def test_musiq_equals_pyiqa(size: tuple[int, int]) -> None:
    musiq = MUSIQ(depth=2)
    musiq.load(formula_weights(musiq.state_dict()))
    frames = wave("frame", 1, 3, *size) / 2 + 0.5
    assert musiq(frames).tolist() == pytest.approx([PYIQA[size]], abs=2e-5)


def test_musiq_takes_every_patch_of_three_scales() -> None:
    patches, places, scales = multiscale_patches(torch.rand(2, 3, 300, 512))
    assert patches.shape == (2, 7 * 5 + 12 * 8 + 16 * 10, 3, 32, 32)  # 224 x 131, 384 x 225, 512 x 300
    assert scales.bincount().tolist() == [35, 96, 160] and places.max() == 99


def official_raft(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the official names, of torchvision's: the names of the official large model, written out."""
    block = ["conv1", "norm1", "conv2", "norm2", "downsample.0", "downsample.1"]
    encoder = [
        "conv1",
        "norm1",
        "conv2",
        *(f"layer{i}.{j}.{name}" for i in (1, 2, 3) for j in (0, 1) for name in block),
    ]
    update = ["encoder.convc1", "encoder.convc2", "encoder.convf1", "encoder.convf2", "encoder.conv", "flow_head.conv1"]
    update += ["flow_head.conv2", "mask.0", "mask.2", *(f"gru.conv{gate}{i}" for gate in "zrq" for i in (1, 2))]
    parts = [f"{net}.{name}" for net in ("fnet", "cnet") for name in encoder] + [f"update_block.{n}" for n in update]
    suffixes = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {torchvision_name(f"{part}.{suffix}"): f"module.{part}.{suffix}" for part in parts for suffix in suffixes}
    return {names[name]: tensor for name, tensor in state.items()}


def test_raft_takes_official_weights_and_gives_the_official_flow() -> None:
    raft = RAFT(iterations=3)
    weights = official_raft(raft.net.state_dict())
    assert len(weights) == len(raft.net.state_dict()) == 169
    made = formula_weights({name.removeprefix("module."): tensor for name, tensor in weights.items()})
    raft.load({f"module.{name}": tensor for name, tensor in made.items()})
    a, b = ((wave(name, 1, 3, 128, 136) + 1) * 127.5 for name in ("first", "second"))
    flow = raft(a, b)
    torch.testing.assert_close(flow[0, :, ::64, ::68], torch.tensor(OFFICIAL_FLOW), atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="128 x 128 pixels or more, not 64 x 80"):
        raft(a[..., :64, :80], b[..., :64, :80])
    with pytest.raises(ValueError, match=r"no tensor of RAFT's large model: update_block.gru2"):
        translate({"fnet.conv1.weight": a, "update_block.gru2.weight": a})


def test_dino_equals_timm_on_square_frames_and_takes_others() -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    dino = DINO(**sizes)
    vit = timm.create_model("vit_base_patch16_224.dino", pretrained=False, num_classes=0, **sizes).eval()
    dino.load(vit.state_dict())
    frames = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(dino(frames), vit(frames), atol=1e-5, rtol=1e-5)
    assert dino(torch.rand(2, 3, 35, 61)).shape == (2, 48)
    with pytest.raises(RuntimeError, match="Missing key"):
        dino.load({"cls_token": vit.cls_token})


def test_clip_towers_equal_open_clip() -> None:
    config = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
    theirs = open_clip.CLIP(
        24, open_clip.CLIPVisionCfg(**config), open_clip.CLIPTextCfg(width=64, heads=1, layers=2), quick_gelu=True
    ).eval()
    vision = {"width": 64, "depth": 2, "heads": 1, "mlp": 256, "patch": 16, "out": 24}
    towers = Towers(vision, {"width": 64, "depth": 2, "heads": 1, "mlp": 256, "out": 24}, size=32)
    towers.load(theirs.state_dict())
    frames = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(towers.image(frames), theirs.encode_image(frames), atol=1e-5, rtol=1e-4)
    texts = ["an oil painting", "Van Gogh style"]
    tokens = open_clip.tokenize(texts)
    torch.testing.assert_close(towers.sentence(texts), theirs.encode_text(tokens), atol=1e-5, rtol=1e-4)
    part = {name: tensor for name, tensor in theirs.state_dict().items() if name.startswith("visual.")}
    with pytest.raises(ValueError, match=r"no text\."):
        towers.load(part)


def test_weights_are_found_where_the_user_says_or_vbench_keeps_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" and cache_folder(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match=r"musiq are not at .*cache/pyiqa_model/musiq_spaq.*source https://"):
        locate("musiq")
    own = tmp_path / "own.pth"
    own.write_bytes(b"weights")
    assert locate("musiq", given={"musiq": own}) == own
    assert len(absent(WEIGHTS, given={"musiq": own})) == len(WEIGHTS) - 1
    with pytest.raises(ValueError, match=r"sha256 9a129038.*its publisher states 40d36571"):
        check("clip_b32", own)
    assert check("musiq", own) == own
    with pytest.raises(FileNotFoundError, match="raft are not at"):
        _ = Models(tmp_path).raft


def test_models_are_built_once_and_load_the_given_files(tmp_path) -> None:
    head = torch.nn.Linear(768, 1)
    torch.save(head.state_dict(), tmp_path / "head.pth")
    raft = RAFT()
    torch.save({f"module.{n}": t for n, t in official_raft(raft.net.state_dict()).items()}, tmp_path / "raft.pth")
    models = Models(given={"aesthetic": tmp_path / "head.pth", "raft": tmp_path / "raft.pth"})
    assert models.raft is models.raft and not any(p.requires_grad for p in models.raft.parameters())
    torch.testing.assert_close(models.aesthetic.weight, head.weight.detach(), check_stride=False)
    name = "update_block.recurrent_block.convgru1.convz.weight"
    torch.testing.assert_close(models.raft.net.state_dict()[name], raft.net.state_dict()[name])
