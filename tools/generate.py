"""Generates films from text: `python tools/generate.py "a teddy bear in the park" --weights DIR --out film.mp4`.

Base, interpolation and super-resolution run one after another, and each can be left out. Beside the mp4 come a contact
sheet (.png) and a record (.json) that `--repeat` makes the same film from. A run that is stopped goes on when the same
command is given again. DIR holds, for the stages that run, lavie_base.pt, lavie_interpolation.pt and lavie_vsr.pt
(huggingface.co/YaohuiW/LaVie) with the folders stable-diffusion-v1-4 and stable-diffusion-x4-upscaler of diffusers, or
folders base, interpolation and vsr that this project trained or exported.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser

_EACH = "one value for all stages, or STAGE=VALUE for single ones"


def _by_stage(kind: Callable[[str], Any]) -> Callable[[str], tuple[str, Any]]:
    """Reads VALUE or STAGE=VALUE."""

    def read(word: str) -> tuple[str, Any]:
        stage, equals, value = word.partition("=")
        known = equals and stage in ("base", "interpolation", "vsr")
        return (stage, kind(value)) if known else ("all", kind(word))

    read.__name__ = kind.__name__  # for argparse's message
    return read


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool."""
    parser = Parser(prog="generate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", help="what the film shows")
    parser.add_argument(
        "--prompts",
        type=Path,
        help="many films: a text file, a prompt a line, or a csv file with the "
        "columns prompt and, where wanted, seed, frames, height, width, name",
    )
    parser.add_argument("--repeat", type=Path, metavar="JSON", help="make the film of this record again")
    parser.add_argument("--out", type=Path, required=True, help="the mp4, or with --prompts a folder")
    parser.add_argument(
        "--weights", metavar="DIR", help="folder of weights; hf://OWNER/NAME; or lavie: the official ones, from the hub"
    )
    parser.add_argument("--tiny", action="store_true", help="random tiny weights instead, to try the command")
    parser.add_argument("--stages", nargs="+", help="default: base interpolation vsr; without base with --source")
    parser.add_argument(
        "--source", metavar="VIDEO", help="a video to interpolate or enlarge instead of the base's clip"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="of the base's clip (default %(default)s)")
    parser.add_argument("--height", type=int, default=320, help="of the base's clip (default %(default)s)")
    parser.add_argument("--width", type=int, default=512, help="of the base's clip (default %(default)s)")
    for name, kind, text in (
        ("steps", int, "sampling steps (default 50)"),
        ("guidance", float, "scale of classifier-free guidance (default base=7.5 interpolation=4 vsr=5)"),
        ("sampler", str, "ddpm, ddim, euler or dpm_solver (default base=ddpm, else ddim)"),
        ("negative", str, "negative prompt (default LaVie's for each stage)"),
        ("overlap", int, "input frames that neighbouring windows share (default 2)"),
    ):
        parser.add_argument(f"--{name}", type=_by_stage(kind), nargs="+", default=[], help=f"{text}; {_EACH}")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the networks (default float16 on cuda, else float32)",
    )
    parser.add_argument(
        "--tile", type=int, default=512, help="side of the VAE's tiles in pixels; 0: whole frames (default %(default)s)"
    )
    a = parser.parse_args(arguments)
    if (a.prompt is not None) + (a.prompts is not None) + (a.repeat is not None) != 1:
        parser.error("give one of: a prompt, --prompts FILE, --repeat JSON")
    if (a.weights is not None) == a.tiny:
        parser.error("give --weights DIR, or --tiny for random tiny weights")
    import torch

    from pretrain.generation.cascade import Cascade
    from pretrain.generation.prompts import read_prompts
    from pretrain.generation.record import read_record
    from pretrain.generation.settings import STAGES, Request, with_options
    from pretrain.generation.tiny import write_tiny

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    device = a.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = a.dtype or ("float16" if device.startswith("cuda") else "float32")
    tile = a.tile
    if a.repeat is not None:
        record = read_record(a.repeat)
        films = {a.out: Request.from_json(record["request"], str(a.repeat))}
        dtype, tile = record["dtype"], record["tile"]
    else:
        stages = tuple(a.stages or (STAGES[1:] if a.source else STAGES))
        options = {name: dict(getattr(a, name)) for name in ("steps", "guidance", "sampler", "negative", "overlap")}
        settings = with_options(stages, options)
        size = {"frames": a.frames, "height": a.height, "width": a.width}
        prompt = "of the file" if a.prompts else a.prompt
        request = Request(prompt, a.seed, **size, stages=stages, source=a.source, settings=settings)
        films = {a.out: request}
        if a.prompts:
            films = {a.out / f"{name}.mp4": each for name, each in read_prompts(a.prompts, request).items()}
    needed = tuple(dict.fromkeys(stage for request in films.values() for stage in request.stages))
    with tempfile.TemporaryDirectory() as place:
        if a.tiny:
            write_tiny(Path(place), stages=needed)
        cascade = Cascade(place if a.tiny else a.weights, needed, device, getattr(torch, dtype), tile)
        for number, (film, request) in enumerate(films.items(), start=1):
            print(f"film {number} of {len(films)}: {request.prompt}", file=sys.stderr)
            made = cascade.film(request, film, a.repeat)
            print(film if made else f"{film} is finished already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
