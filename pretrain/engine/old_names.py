"""Old names in recipes: where classes lived and what arguments were called before, so that old runs still load.

A recipe travels in checkpoints, run folders and indexes. Whatever reads one passes it through `with_new_names` first.
"""

from typing import Any

# Module of a class, before and now. The package's own names (`datamodules.Files`, `pretrain.objectives.UMT`) have
# always been the same.
_MODULES = {
    "datamodules.annotations": "datamodules.sources.annotated.annotations",
    "datamodules.augment": "datamodules.clips.augment",
    "datamodules.decode": "datamodules.decoding.reader",
    "datamodules.files": "datamodules.sources.files",
    "datamodules.framing": "datamodules.clips.eval_views",
    "datamodules.gather": "datamodules.sources.annotated.rows",
    "datamodules.mixture": "datamodules.sources.mixture",
    "datamodules.sampling": "datamodules.clips.sampling",
    "datamodules.shards": "datamodules.sources.shards",
    "datamodules.synthetic": "datamodules.sources.synthetic",
    "datamodules.tables": "datamodules.sources.annotated.tables",
    "datamodules.transforms": "datamodules.clips.crops",
    "pretrain.callbacks": "pretrain.engine.monitoring",
    "pretrain.callbacks.Features": "pretrain.features.writer.Features",
    "pretrain.checkpoint": "pretrain.engine.checkpoint",
    "pretrain.ema": "pretrain.engine.ema",
    "pretrain.erase": "pretrain.learning.random_erasing",
    "pretrain.guard": "pretrain.engine.nonfinite_guard",
    "pretrain.masking": "pretrain.learning.masking",
    "pretrain.mix": "pretrain.learning.mixup",
    "pretrain.learning.optim.AdamW": "pretrain.learning.optim.Optim",
    "pretrain.optim": "pretrain.learning.optim",
    "pretrain.optim.AdamW": "pretrain.learning.optim.Optim",
    "pretrain.preemption": "pretrain.engine.preemption",
    "pretrain.results": "pretrain.metrics.report",
    "pretrain.resume": "pretrain.engine.resume",
    "pretrain.strategies": "pretrain.engine.strategies",
    "pretrain.teachers": "pretrain.learning.teachers",
    "pretrain.wise": "pretrain.export.interpolate",
}
# Arguments by their old names, each of which no class uses for anything else.
_ARGUMENTS = {"at_once": "chunk_size", "hides": "mask_token", "spared": "no_decay"}


def with_new_names(settings: Any) -> Any:
    """`settings` of a recipe, or any part of them, with today's names; what has them already is returned equal."""
    if isinstance(settings, list):
        return [with_new_names(part) for part in settings]
    if not isinstance(settings, dict):
        return settings
    renamed = {}
    for key, value in settings.items():
        if key == "class_path" and isinstance(value, str):
            renamed[key] = _class_path(value)
        elif key == "offload" and value is False:  # of ZeROStrategy, which has the option no more
            continue
        elif key == "half" and isinstance(value, bool):  # of a teacher or of FSDP2Strategy
            renamed["param_dtype"] = "bfloat16" if value else "float32"
        else:
            renamed[_ARGUMENTS.get(key, key)] = with_new_names(value)
    return renamed


def _class_path(path: str) -> str:
    module, _, name = path.rpartition(".")
    return _MODULES.get(path) or (f"{_MODULES[module]}.{name}" if module in _MODULES else path)
