"""VBench's semantic dimensions against the official code: objects, colours, positions, scenes and actions."""

import torch

from pretrain.metrics.vbench.color import color_counts, object_of
from pretrain.metrics.vbench.human_action import label_of, recognised
from pretrain.metrics.vbench.interfaces import Detections
from pretrain.metrics.vbench.multiple_objects import both_names
from pretrain.metrics.vbench.object_class import has_all
from pretrain.metrics.vbench.scene import names_scene
from pretrain.metrics.vbench.spatial_relationship import frame_score, position_score
from tests.parity import checks
from tests.parity.case import Case

KINETICS = {"class_names": "where the 400 names stand; `classes_used` has those that the case needs"}


def of_names(names: list[str]) -> Detections:
    return Detections(torch.zeros(len(names), 4), names, names)


def of_captions(pairs: list[list[str]]) -> Detections:
    return Detections(torch.zeros(len(pairs), 4), [name for _, name in pairs], [text for text, _ in pairs])


def of_boxes(pairs: list[list]) -> Detections:
    names = [name for name, _ in pairs]
    return Detections(torch.tensor([box for _, box in pairs], dtype=torch.float64).reshape(-1, 4), names, names)


@checks("semantic")
def semantic(case: Case) -> None:
    facts, expected = case.facts, case.facts.get("expected", {})
    close = {"atol": facts["tolerance"], "rtol": 0}
    objects = [of_names(names) for names in facts.get("object_sets", ())]
    for record in expected.get("object_class", ()):
        case.fact(record, "hits", int(has_all(objects, [record["object"]]).sum()))
    for record in expected.get("multiple_objects", ()):
        case.fact(record, "hits", int(has_all(objects, both_names(record["object"])).sum()))
    captions = [of_captions(pairs) for pairs in facts.get("captions", ())]
    for record in expected.get("color", ()):
        right, any_color = color_counts(captions, record["object"], record["color"])
        case.fact(record, "frames_with_object_and_any_colour", any_color)
        case.fact(record, "frames_with_object_in_colour", right)
    boxes = [of_boxes(pairs) for pairs in facts.get("boxes", ())]
    for record in expected.get("spatial_relationship", ()):
        names, relation = (record["object_a"], record["object_b"]), record["relationship"]
        case.fact(record, "frame_scores", [frame_score(relation, frame, names) for frame in boxes], close)
    for record in expected.get("scene", ()):
        case.fact(record, "hits", int(names_scene(facts["scene_captions"], record["scene"]).sum()))
    for record in facts.get("color_object_names", ()):
        case.fact(record, "object", object_of(record["prompt"], record["color"]))
    for record in facts.get("position_pairs", ()):
        for name, relation in (("horizontal", "on the left of"), ("vertical", "on the top of")):
            case.fact(record, name, position_score(relation, record["a"], record["b"]), close)
    for record in facts.get("human_action_labels", ()):
        case.fact(record, "label", label_of(record["path"]))


@checks("human_action", not_needed=KINETICS)
def human_action(case: Case) -> None:
    records, found = case.facts["cases"], []
    classes = [f"class {i}" for i in range(len(case[records[0]["logits"]]))]
    for name, number in case.facts["classes_used"].plain().items():
        classes[number] = name
    for record in records:
        found.append(label_of(record["path"]) in recognised(case[record["logits"]], classes))
        case.fact(record, "correct", found[-1])
    case.fact(case.facts, "accuracy", sum(found) / len(found), {"atol": 1e-12, "rtol": 0})
