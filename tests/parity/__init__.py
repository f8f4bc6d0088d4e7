"""Checks against the official code, by kind of reference case: each module registers its own with `checks`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

from safetensors.torch import load_file

from tests.parity.case import Case

# Kinds of methods that the project does not have yet: their cases are skipped, for this reason.
_LAVIE = "LaVie is not built yet"
_VBENCH = "VBench is not built yet"
_CHAT = "VideoChat2 is not built yet"
_MVBENCH = "MVBench is not built yet"
NOT_BUILT = {
    **dict.fromkeys(("transformer_block", "base_joint_training", "rel_pos_buckets", "rotary", "base_sampling"), _LAVIE),
    **dict.fromkeys(("temporal_attention", "base_unet", "interp_sampling", "sparse_causal_attention"), _LAVIE),
    **dict.fromkeys(("interp_unet", "vsr_unet", "vsr_units", "v_prediction"), _LAVIE),
    **dict.fromkeys(("consistency", "dino_vit", "dynamic_degree", "temporal_flickering", "human_action"), _VBENCH),
    **dict.fromkeys(("quality", "semantic", "motion_smoothness", "totals", "vb_utils"), _VBENCH),
    **dict.fromkeys(("chat_frame_indices", "gmhra", "hd_tiling", "cosine_with_floor", "position_tables"), _CHAT),
    **dict.fromkeys(("qformer", "videochat2_align", "videochat2_connect", "videochat2_instruct"), _CHAT),
    **dict.fromkeys(("videochat2_hd", "chat_conversations"), _CHAT),
    **dict.fromkeys(("mvbench_aggregate", "mvbench_answer_check", "mvbench_prompts"), _MVBENCH),
}


@dataclass(frozen=True)
class Check:
    """A check, with patterns of the keys and tensors that it does not need, each with a reason."""

    run: Callable[[Case], None]
    not_needed: dict[str, str]


_KINDS: dict[str, Check] = {}
_NAMES: dict[str, Check] = {}


def checks(*kinds: str, names: tuple[str, ...] = (), not_needed: dict[str, str] | None = None):
    """Register a function as the check of these kinds of case, or of cases without a kind whose name matches."""

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        check = Check(function, not_needed or {})
        _KINDS.update(dict.fromkeys(kinds, check))
        _NAMES.update(dict.fromkeys(names, check))
        return function

    return register


def check_of(facts: dict, stem: str) -> Check | None:
    """The check of a case's kind; without a kind, of the longest pattern that its name matches. None: unknown."""
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        if not path.stem.startswith("test_"):
            import_module(f"tests.parity.{path.stem}")
    if "kind" in facts:
        return _KINDS.get(facts["kind"])
    matching = [pattern for pattern in _NAMES if fnmatchcase(facts.get("name", stem), pattern)]
    return _NAMES[max(matching, key=len)] if matching else None


def run(facts: dict, tensors: dict, stem: str = "") -> Case:
    """Check one case; AssertionError where it differs, where something of it is not used, or where it is unknown."""
    check = check_of(facts, stem)
    assert check is not None, f"no check for a case of kind {facts.get('kind')!r}, name {facts.get('name', stem)!r}"
    case = Case(facts, tensors)
    check.run(case)
    case.finish(check.not_needed)
    return case


def read(path: Path) -> tuple[dict, dict]:
    """Facts and tensors of the case at NAME.json, beside NAME.safetensors where it has tensors."""
    tensors = path.with_suffix(".safetensors")
    return json.loads(path.read_text()), load_file(tensors) if tensors.exists() else {}
