"""The README of an export: what the model is, how it was trained, commands that load it, and its recipe beside it."""

from pathlib import Path, PurePath
from typing import Any

import yaml

from datamodules.storage.counted import counted
from pretrain.export.shared import encoder_of
from pretrain.export.transformers import example
from pretrain.objectives import Classify, Objective

RECIPE = "recipe.yaml"
# How each method trains: a tag of the hub, and in words.
TRAINING = {
    "VideoMAE": ("self-supervised", "masked autoencoding of videos, without labels or texts"),
    "UMT": ("distillation", "distillation of an image-text teacher into a video encoder, without labels or texts"),
    "UMT2": ("video-text", "contrast, matching and masked language modelling of videos and texts"),
    "ViCLIP": ("video-text", "contrast of videos and texts"),
    "ViLP": ("video-text", "contrast of videos and texts, and masked language modelling"),
    "InternVideo": ("video-text", "contrast of videos and texts, and captioning"),
    "Classify": ("supervised", "supervised classification"),
    "VideoQA": ("supervised", "supervised question answering"),
    "Align": ("video-text", "alignment of a video encoder with a language model's words"),
    "Converse": ("instruction-tuning", "learning to answer about videos"),
    "Denoise": ("diffusion", "denoising of videos"),
}
_TASKS = {"Classify": "video-classification", "Converse": "video-text-to-text"}


def write_model_card(
    model: Objective, facts: dict[str, Any], to: str, key: str, folder: Path, name: str, read: str, more: str
) -> None:
    """Writes `README.md` and, if it can be read, `recipe.yaml`.

    Args:
        facts: of the run, as `load_objective` returns them.
        to: the layout: transformers, safetensors or official.
        key: of the tensors in an official file.
        folder: to write into.
        name: of the folder, as its reader will call it.
        read: code that makes the model's input of a video; "": there is no processor.
        more: what else is in the folder, or is not.
    """
    recipe = without_places(facts["recipe"])
    if recipe:
        (folder / RECIPE).write_text(recipe, encoding="utf-8")
    (folder / "README.md").write_text(_card(model, facts, to, key, name, read, more, bool(recipe)), encoding="utf-8")


def _card(
    model: Objective, facts: dict[str, Any], to: str, key: str, name: str, read: str, more: str, has_recipe: bool
) -> str:
    e, (mean, std) = encoder_of(model), model.normalize.values
    kind = type(model).__name__
    tag, training = TRAINING.get(kind, ("video", f"the objective {kind}"))
    what = {"Classify": "video classifier", "Converse": "chat model"}.get(kind, "video encoder")
    parameters = sum(p.numel() for p in e.parameters()) / 1e6
    lines = [
        "---",
        f"library_name: {'transformers' if to == 'transformers' else 'tubelet'}",
        f"pipeline_tag: {_TASKS.get(kind, 'feature-extraction')}",
        f"tags: [video, {tag}, {kind.lower()}]",
        "---",
        f"# {name}",
        "",
        f"A {what} ({kind}; its encoder has {parameters:.1f} M parameters), trained with Tubelet by {training}: "
        f"{counted(facts['step'], 'step')}, `{PurePath(facts['checkpoint']).name}`.",
        "",
        f"Input: {e.frames} frames of {e.size} x {e.size} pixels, normalised by mean {mean} and deviation {std}; one",
        f"token per tubelet of {e.tubelet} frames of {e.patch} x {e.patch} pixels, {e.width} channels.",
        *([f"Beside it: {more}."] if more else []),
    ]
    names = model.names if isinstance(model, Classify) else None
    if names:
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        lines += ["", f"Classes: {shown}."]
    lines += ["", *_usage(model, to, key, name, read, has_recipe)]
    if has_recipe:
        lines += ["", f"The whole recipe: [{RECIPE}]({RECIPE})."]
    return "\n".join(lines) + "\n"


def _usage(model: Objective, to: str, key: str, name: str, read: str, has_recipe: bool) -> list[str]:
    """Commands and code that load the folder, called from where it lies."""
    if to == "transformers":
        return ["```python", *(read + example(model)).replace("PATH", name).split("\n"), "```"]
    file = f"{name}/model.safetensors" if to == "safetensors" else f"{name}/checkpoint.pth"
    code = {
        "safetensors": f'from safetensors.torch import load_file\ntensors = load_file("{file}")',
        "official": f'import torch\ntensors = torch.load("{file}", weights_only=True)["{key}"]',
    }[to]
    lines = ["```python", *code.split("\n"), "```"]
    if has_recipe and type(model).predict is not Objective.predict:
        command = f"tubelet predict -c {name}/{RECIPE} my/videos --weights {file} --out features"
        lines = ["Features of videos, with Tubelet:", "", "```sh", command, "```", "", "The tensors alone:", "", *lines]
    return lines


def without_places(recipe: str) -> str:
    """A recipe in which absolute paths, which mean nothing elsewhere, are their last parts; "" if it is no YAML."""
    try:
        settings = yaml.safe_load(recipe)
    except (yaml.YAMLError, RecursionError):
        return ""
    return yaml.safe_dump(_relative(settings), sort_keys=False, allow_unicode=True) if settings else ""


def _relative(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _relative(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_relative(value) for value in part]
    return PurePath(part).name if isinstance(part, str) and part.startswith(("/", "~")) else part
