"""The tiny recipe of each method, and a recipe with all its defaults."""

import pytest
import yaml

from pretrain.cli import main
from tests.helpers.paths import ROOT

# One row per method. The tests of all methods, of resuming and of ranks run for every row.
METHODS = {
    "align": ["-c", str(ROOT / "recipes/videochat2_align_tiny.yaml")],
    "converse": ["-c", str(ROOT / "recipes/videochat2_connect_tiny.yaml")],
    "finetune": [
        "-c",
        str(ROOT / "recipes/finetune_tiny.yaml"),
        "--model.init_args.mix.prob=1",
        "--model.init_args.mix.across_ranks=true",
    ],
    "internvideo": ["-c", str(ROOT / "recipes/internvideo_mm_tiny.yaml")],
    "lavie": [
        *("-c", str(ROOT / "recipes/lavie_base_tiny.yaml"), "--model.init_args.unet.init_args.widths=[32,32]"),
        *("--model.init_args.unet.init_args.attention=[true,true]", "--model.init_args.unet.init_args.heads=1"),
        *("--model.init_args.sampling.steps=2",),
    ],
    "videomae": ["-c", str(ROOT / "recipes/videomae_tiny.yaml")],
    "umt": ["-c", str(ROOT / "recipes/umt_tiny.yaml")],
    "umt2": ["-c", str(ROOT / "recipes/umt2_tiny.yaml")],
    "viclip": ["-c", str(ROOT / "recipes/viclip_tiny.yaml")],
    "vilp": ["-c", str(ROOT / "recipes/vilp_tiny.yaml")],
}


def each_method(slow: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """A test a method, with its `recipe`; those of some methods are slow."""
    rows = [pytest.param(METHODS[name], id=name, marks=[pytest.mark.slow] * (name in slow)) for name in METHODS]
    return pytest.mark.parametrize("recipe", rows)


EACH_METHOD = each_method()


_PRINTED: dict[tuple[str, ...], str] = {}  # by arguments: parsing a recipe takes half a second


def resolved(capsys: pytest.CaptureFixture, recipe: list[str], *more: str) -> dict:
    """A recipe with all defaults, as `--print_config` prints it."""
    args = *recipe, *more
    if args not in _PRINTED:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["fit", *args, "--print_config"])
        assert stop.value.code == 0
        _PRINTED[args] = capsys.readouterr().out
    return yaml.safe_load(_PRINTED[args])
