"""Position tables, inflated kernels and mixed batches against the official code."""

import math
import re

import numpy as np

import models
from models.positions import FixedPositions, fit_rows, sinusoid_table
from models.viclip import inflate
from pretrain.learning.mixup import Mix, blend, partner_rows
from pretrain.objectives import Classify
from tests.parity import checks
from tests.parity.case import CLOSE, TABLE, Case


@checks("sinusoid_table")
def sinusoid(case: Case) -> None:
    chosen = {name: case[name] for name in case.names() if name.startswith("rows_")}
    for name in case.names():
        if found := re.fullmatch(r"(table|sum)_(\d+)x(\d+)(_rows)?", name):
            rows, width = int(found[2]), int(found[3])
            table = sinusoid_table(rows, width)
            if found[1] == "sum":
                case.close(name, table.double().sum(), {"atol": 1e-3, "rtol": 0})
            else:
                case.close(name, table[chosen.get(f"rows_{rows}x{width}", slice(None))], TABLE)


@checks("umt_sinusoid_interpolated")
def sinusoid_interpolated(case: Case) -> None:
    for i, c in enumerate(case.facts["cases"]):
        positions = FixedPositions((c["frames"], c["side"], c["side"]), c["dim"], made_for=(8, 14, 14))
        case.close(f"case{i}/table", positions.table, TABLE)
        case.fact(c, "is_parameter", bool(positions.state_dict()))


@checks(names=("inflate*",))
def inflated(case: Case) -> None:
    """CLIP's kernels over time, and its tables at other sizes and lengths."""
    c = case.facts["config"]
    for depth in c.get("times", []):
        case.close(f"out/center_{depth}", lambda depth=depth: inflate(case["in/conv_2d"], depth))
        case.close(f"out/mean_{depth}", lambda depth=depth: inflate(case["in/conv_2d"], depth, centre=False))
    case.close("out/conv_3d_k1", lambda: inflate(case["in/conv_2d"], 1))
    tower = models.ViCLIPVision(c["out_c"], 1, 1, 8, c["patch"], 1, 2, c["res_new"], 8)
    if "in/pos_table" in case:
        case.sizes(c, res_old=c["patch"] * math.isqrt(len(case["in/pos_table"])))
        case.close("out/pos_table_resized", lambda: tower.fit_table(case["in/pos_table"]))
    for name in case.names("out"):
        kind, _, rows = name.removeprefix("out/").removesuffix("_zero_padded").rpartition("_")
        if kind == "temporal":
            zeros = name.endswith("_zero_padded")
            case.close(name, fit_rows(case["in/temporal_table"][0], int(rows), zeros=zeros)[None], CLOSE)
        if kind == "text_pos":
            case.close(name, fit_rows(case["in/text_pos_table"], int(rows)), CLOSE)


@checks("mixup_cutmix_batch")
def mixup_and_cutmix(case: Case) -> None:
    a = case.facts["args"]
    assert a.get("mode", "batch") == "batch"
    mix = Mix(a["mixup_alpha"], a["cutmix_alpha"], a["prob"], a["switch_prob"], together=True)
    model = models.VideoClassifier(models.VideoViT(8, 1, 1, 8, 8, 1, 1, 8), case.facts["classes"])
    objective = Classify(model, smoothing=a.get("label_smoothing", 0.0))
    for seed in (c["seed"] for c in case.facts["cases"]):
        video, labels = case[f"seed{seed}/video"], case[f"seed{seed}/labels"]
        draw = mix.draw(np.random.RandomState(seed), *video.shape[3:])
        made, share = blend(video, partner_rows(video), [draw] * len(video))
        target, _ = objective.targets({"label": labels})
        target = target * share + partner_rows(target) * (1 - share)
        case.close(f"seed{seed}/mixed_video", made, TABLE)
        case.close(f"seed{seed}/mixed_target", target, TABLE)
