"""Benchmarks on this machine: `benchmark.py data --videos DIR` times loading, `benchmark.py train` a training step.

`recipes` times loading as recipes do it, against the bare decoder and on prepared shards.
`grow` measures how the cost of a step grows, `where` profiles a step, `products` times its products alone, `fit` a run
end to end. Of chat models, `packs` times rows without padding, and `answers` questions in batches.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from datamodules.storage.whole_files import write_whole
from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool."""
    parser = Parser(prog="benchmark.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (
        add_data,
        add_recipes,
        add_train,
        add_grow,
        add_where,
        add_products,
        add_fit,
        add_packs,
        add_answers,
    ):  # each adds a command and its function
        add(commands)
    for command in commands.choices.values():
        command.add_argument("--json", help="also write the full report to this file")
    a = parser.parse_args(arguments)
    report, table = a.run(a)
    print(table)
    if a.json:
        write_whole(a.json, json.dumps(report, indent=1) + "\n")
    return 0


def add_data(commands: argparse._SubParsersAction) -> None:
    """`data`: clips per second of the loader, of its decoder alone and of a common baseline loader."""
    parser = commands.add_parser("data", help="loading: clips per second", description=add_data.__doc__)
    parser.add_argument("--videos", help="a folder, a csv or jsonl list, or one video")
    parser.add_argument(
        "--shards",
        nargs="+",
        help="folders or URLs of shards; with --videos: shards made of the same videos, both timed in one run",
    )
    parser.add_argument("--decoder", default="PyAV", choices=("PyAV", "Decord", "TorchCodec"), help="(default PyAV)")
    parser.add_argument("--count", type=int, default=20, help="number of videos (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="frames per clip (default %(default)s)")
    parser.add_argument("--stride", type=int, default=4, help="stride between frames (default %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="pixels per side of a view (default %(default)s)")
    parser.add_argument("--views", type=int, default=4, help="views per decoded clip (default %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="also time the loader with this many worker processes")
    parser.set_defaults(run=data)


def data(a: argparse.Namespace) -> tuple[dict, str]:
    """Report and table of `data`."""
    import datamodules
    from datamodules.timing.benchmark import measure
    from datamodules.timing.benchmark_table import as_markdown

    if not a.videos and not a.shards:
        raise ValueError("nothing to load: give --videos, --shards, or both")
    sources = [datamodules.Files(a.videos)] if a.videos else []
    sources += [datamodules.Shards(a.shards)] if a.shards else []
    report = measure(
        *(sources[0], getattr(datamodules, a.decoder)(), a.frames, a.stride, a.size, a.views),
        **{"videos": a.count, "rounds": a.rounds, "workers": a.workers},
        prepared=sources[1] if len(sources) == 2 else None,
    )
    return report, as_markdown(report)


def add_recipes(commands: argparse._SubParsersAction) -> None:
    """`recipes`: loading as recipes do it, against the bare decoder, and on prepared shards of the same videos."""
    parser = commands.add_parser("recipes", help="loading: as recipes do it", description=add_recipes.__doc__)
    parser.add_argument("recipes", nargs="+", help="as recipes/videomae_b.yaml")
    parser.add_argument("--videos", required=True, help="a folder, or a csv or jsonl list")
    parser.add_argument("--shards", nargs="+", default=[], help="folders that prepare.py has made of these videos")
    parser.add_argument("--draws", type=int, default=2, help="clips of each video (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.set_defaults(run=recipes)


def recipes(a: argparse.Namespace) -> tuple[dict, str]:
    """Report and table of `recipes`."""
    import datamodules
    from datamodules.timing.recipe_times import as_markdown, measure_recipes

    clips = {Path(recipe).stem: clip_of(recipe) for recipe in a.recipes}
    shards = {Path(folder).name: datamodules.Shards(folder) for folder in a.shards}
    report = measure_recipes(datamodules.Files(a.videos), clips, shards, a.draws, a.rounds)
    return report, as_markdown(report)


def clip_of(recipe: str):
    """How a recipe cuts its clips."""
    import jsonargparse
    from omegaconf import OmegaConf

    import datamodules

    settings = OmegaConf.to_container(OmegaConf.load(recipe)["data"], resolve=True)
    settings["init_args"] |= {"train": None, "val": None, "test": None, "predict": None}
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(datamodules.VideoData, "data")
    return parser.instantiate(parser.parse_object({"data": settings})).data.clip


def add_train(commands: argparse._SubParsersAction) -> None:
    """`train`: a full step (forward, backward, clipping, AdamW) at a published size, in float32, against a peer."""
    parser = commands.add_parser("train", help="training: a step", description=add_train.__doc__)
    add_step(parser, "base")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.set_defaults(run=train)


def add_grow(commands: argparse._SubParsersAction) -> None:
    """`grow`: how time and memory of a step grow with frames, pixels, model size and mask ratio, one at a time."""
    parser = commands.add_parser("grow", help="training: how the cost of a step grows", description=add_grow.__doc__)
    add_step(parser, "small")
    parser.add_argument("--rounds", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--axes", nargs="+", choices=("frames", "pixels", "size", "ratio"), help="(default: all)")
    parser.add_argument("--out", default="growth.png", help="plot (png, default %(default)s)")
    parser.set_defaults(run=grow)


def add_where(commands: argparse._SubParsersAction) -> None:
    """`where`: where the time of our training step goes, for each named method, by torch's profiler."""
    parser = commands.add_parser("where", help="training: where the time goes", description=add_where.__doc__)
    parser.add_argument("--methods", nargs="+", choices=_METHODS, default=list(_ENCODERS), help="(default: encoders)")
    add_setting(parser, "base")
    parser.add_argument("--steps", type=int, default=5, help="(default %(default)s)")
    parser.set_defaults(run=where)


def add_fit(commands: argparse._SubParsersAction) -> None:
    """`fit`: a run end to end, against its bare training step; arguments after -- go to `fit`."""
    parser = commands.add_parser("fit", help="training: a run end to end", description=add_fit.__doc__)
    parser.add_argument("--steps", type=int, default=12, help="(default %(default)s)")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="last, after --: -c RECIPE and other arguments of fit")
    parser.set_defaults(run=fit)


def add_packs(commands: argparse._SubParsersAction) -> None:
    """`packs`: an instruction step of VideoChat2 with packed rows against padded ones, at its data's mix of lengths."""
    parser = commands.add_parser("packs", help="chat: rows without padding", description=add_packs.__doc__)
    parser.add_argument("--micro", type=int, default=4, help="samples of a micro-batch (default %(default)s)")
    parser.add_argument("--samples", type=int, default=32, help="of a step (default %(default)s)")
    parser.add_argument("--width", type=int, default=512, help="of the language model (default %(default)s)")
    parser.add_argument("--layers", type=int, default=6, help="of the language model (default %(default)s)")
    parser.add_argument("--vocabulary", type=int, default=2048, help="of the language model (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default %(default)s)")
    parser.set_defaults(run=packs)


def add_answers(commands: argparse._SubParsersAction) -> None:
    """`answers`: answers a second of a chat model of random weights, in batches against one by one."""
    parser = commands.add_parser("answers", help="chat: answers a second", description=add_answers.__doc__)
    parser.add_argument("--model", help="a run, checkpoint or export of VideoChat instead of random weights")
    parser.add_argument("--width", type=int, default=768, help="of the language model (default %(default)s)")
    parser.add_argument("--layers", type=int, default=12, help="of the language model (default %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="questions of a batch (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    shared = "what the prompts begin with alike; video: the system prompt, and a video of four questions each"
    parser.add_argument("--shared", choices=_SHARED, default="system", help=f"{shared} (default %(default)s)")
    parser.set_defaults(run=answers)


_SHARED = ("nothing", "system", "video")
_ENCODERS = ("videomae", "umt", "viclip", "vilp", "vit")
_METHODS = (*_ENCODERS, "lavie", "lavie_sampling")
_SIZES = ("s", "b", "l", "h", "g", "small", "base", "large", "huge", "giant")


def add_products(commands: argparse._SubParsersAction) -> None:
    """`products`: the products of our training step, each repeated alone: the most that a step can reach."""
    parser = commands.add_parser("products", help="training: its products alone", description=add_products.__doc__)
    parser.add_argument("--method", choices=_METHODS, default="videomae", help="(default %(default)s)")
    add_setting(parser, "base")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.set_defaults(run=products)


def add_step(parser: argparse.ArgumentParser, size: str) -> None:
    """Options of both commands that compare with a peer; `size` is the default."""
    parser.add_argument("--method", choices=_METHODS, default="videomae", help="(default %(default)s)")
    add_setting(parser, size)
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory, which takes extra processes")


def add_setting(parser: argparse.ArgumentParser, size: str) -> None:
    """Options for the model and the batch of a step; `size` is the default."""
    parser.add_argument("--size", choices=_SIZES, default=size, help="size or its first letter (default %(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="clips per step (default %(default)s)")
    parser.add_argument("--frames", type=int, help="frames per clip (default: as in the method's paper)")
    parser.add_argument("--pixels", type=int, help="pixels per side (default 224); of lavie the height (default 160)")
    parser.add_argument("--ratio", type=float, help="share of masked tokens (default: the method's)")
    parser.add_argument("--device", default="cpu", help="(default %(default)s)")


def setting_of(a: argparse.Namespace, method: str):
    """The requested `Setting`."""
    from models import SIZES
    from pretrain.studies.speed import Setting

    size = next(name for name in SIZES if name.startswith(a.size[0]))
    generates = method.startswith("lavie")
    frames = a.frames or (16 if generates or method in ("videomae", "vit") else 8)
    return Setting(size, a.batch, frames, a.pixels or (160 if generates else 224), a.ratio, a.device)


def train(a: argparse.Namespace) -> tuple[dict, str]:
    """Report and table of `train`."""
    from pretrain.studies.speed import METHODS, race

    report = race(a.method, METHODS[a.method], setting_of(a, a.method), a.rounds, memory=not a.no_memory)
    return report.json(), report.markdown()


def grow(a: argparse.Namespace) -> tuple[dict, str]:
    """Reports and table of `grow`; also draws the plot."""
    from pretrain.studies.speed import METHODS, growth

    axes = {axis: growth.AXES[axis] for axis in a.axes or growth.AXES}
    found = growth.grow(a.method, METHODS[a.method], setting_of(a, a.method), axes, a.rounds, memory=not a.no_memory)
    growth.draw(found, Path(a.out))
    reports = {axis: {str(value): r.json() for value, r in points.items()} for axis, points in found.items()}
    return reports, f"{growth.as_markdown(found)}\n\n{a.out}"


def where(a: argparse.Namespace) -> tuple[list[dict], str]:
    """Reports and table of `where`."""
    from pretrain.studies.speed import METHODS, breakdown

    found = [breakdown.profile_step(name, METHODS[name], setting_of(a, name), a.steps) for name in a.methods]
    return [one.json() for one in found], breakdown.as_markdown(found)


def products(a: argparse.Namespace) -> tuple[dict, str]:
    """Report and table of `products`."""
    from pretrain.studies.speed import METHODS
    from pretrain.studies.speed.products import products_alone

    found = products_alone(a.method, METHODS[a.method], setting_of(a, a.method), a.rounds)
    return found.json(), found.markdown()


def fit(a: argparse.Namespace) -> tuple[dict, str]:
    """Report and text of `fit`."""
    from pretrain.studies.speed.end_to_end import time_fit

    found = time_fit(a.words[a.words[:1] == ["--"] :], a.steps)
    return found.json(), found.markdown()


def packs(a: argparse.Namespace) -> tuple[dict, str]:
    """Report and table of `packs`."""
    from pretrain.studies.speed.packing import Sizes, measure

    sizes = Sizes(a.vocabulary, a.width, a.layers)
    found = measure(sizes, a.micro, a.samples, a.rounds, a.device)
    return found.json(), found.markdown()


def answers(a: argparse.Namespace) -> tuple[dict, str]:
    """Report and table of `answers`."""
    from pretrain.chat.load import load_assistant
    from pretrain.studies.speed.answers import build, measure

    assistant = load_assistant(a.model) if a.model else build(a.width, a.layers)
    found = measure(assistant, a.batch, a.tokens, a.rounds, a.shared)
    return found.json(), found.markdown()


if __name__ == "__main__":
    sys.exit(main())
