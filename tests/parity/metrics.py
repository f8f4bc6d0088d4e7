"""Retrieval and zero-shot metrics against the official code: recalls, dual softmax, scores over templates."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.metrics.ranking import by_video, dual_softmax, ranks, recalls, within
from pretrain.metrics.zero_shot import template_scores
from tests.parity import checks
from tests.parity.case import Case, Record


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a.double(), dim=-1) @ F.normalize(b.double(), dim=-1).t()


def official(text_to_video: Tensor, video_to_text: Tensor, right: Tensor) -> dict[str, float]:
    """Our recalls under ViCLIP's names: `img` is text to video, `txt` video to text."""
    ways = {"img": recalls(ranks(text_to_video, right)), "txt": recalls(ranks(video_to_text, right.t()))}
    made = {f"{way}_r{k}": found[f"R{k}"].item() for way, found in ways.items() for k in (1, 5, 10)}
    made |= {f"{way}_r_mean": sum(made[f"{way}_r{k}"] for k in (1, 5, 10)) / 3 for way in ways}
    made["r_mean"] = (made["img_r_mean"] + made["txt_r_mean"]) / 2
    return {name: round(value, 2) for name, value in made.items()}


def official_among_equals(text_to_video: Tensor, video_to_text: Tensor, right: Tensor, expected: dict) -> None:
    """Recalls of the released evaluator where many similarities are equal (UMT's re-ranking leaves -100 outside the
    first k): its sort puts equals in any order, so its recalls lie between ours and those of the best order."""
    best = text_to_video + 1e-3 * right, video_to_text + 1e-3 * right.t()
    lowest, highest = official(text_to_video, video_to_text, right), official(*best, right)
    assert lowest.keys() == expected.keys()
    for name, value in expected.items():
        assert lowest[name] <= value <= highest[name], (name, lowest[name], value, highest[name])


def same_as_clip4clip(case: Case, expected: Record, sim: Tensor, right: Tensor) -> None:
    found = ranks(sim, right)
    made = {name: value.item() for name, value in recalls(found).items()}
    made |= {"MR": made["MdR"], "MedianR": made["MdR"], "MeanR": made["MnR"]}
    made["Std_Rank"] = found.double().std(unbiased=False).item()
    for name in expected:
        case.fact(expected, name, made[name], {"atol": 1e-5, "rtol": 0})  # some of theirs are float32


@checks(names=("retrieval*",), not_needed={"config.noise": "how the stored features were made"})
def retrieval(case: Case) -> None:
    facts, c = case.facts, case.facts["config"]
    video, text = case["in/video_feats"], case["in/text_feats"]
    owners = facts["txt2img"].plain()
    owner = torch.tensor([owners[str(i)] for i in range(len(text))])
    right = owner[:, None] == torch.arange(len(video))
    case.sizes(c, nv=len(video), dim=video.shape[1])
    case.fact(c, "captions", right.sum(0).tolist())
    sim = cosines(text, video)
    both = dual_softmax(sim), dual_softmax(sim.t())
    case.close("out/sim_v2t", sim.t().float())
    case.close("out/sim_t2v_dual_softmax", both[0].float())
    case.close("out/sim_v2t_dual_softmax", both[1].float())
    case.fact(facts, "viclip_metrics", official(sim, sim.t(), right))
    case.fact(facts, "viclip_metrics_dual_softmax", official(*both, right))

    first = [int((owner == v).nonzero()[0]) for v in range(len(video))]  # CLIP4Clip's plain form: a caption a video
    square, own = sim[first], torch.eye(len(video), dtype=torch.bool)
    case.close("out/square_t2v", square.float())
    plain = facts.get("clip4clip", {})
    for way, matrix in (("t2v", square), ("v2t", square.t())):
        same_as_clip4clip(case, plain.get(way, {}), matrix, own)
        same_as_clip4clip(case, plain.get(f"{way}_dual_softmax", {}), dual_softmax(matrix), own)
    several = facts.get("clip4clip_multi_sentence", {})
    same_as_clip4clip(case, several.get("t2v", {}), sim, right)
    same_as_clip4clip(case, several.get("v2t", {}), by_video(sim.t(), right), own)


@checks(names=("viclip_zero_shot*",))
def viclip_zero_shot(case: Case) -> None:
    c = case.facts["config"]
    video = case["in/video_feats"]
    case.sizes(c, nv=len(video), dim=video.shape[1])
    texts = F.normalize(case["in/text_feats"], dim=-1).unflatten(0, (c["nc"], c["prompts"]))
    scores = template_scores(F.normalize(video, dim=-1), texts)
    case.close("out/scores", scores.float())
    if "in/labels" in case:
        found = ranks(scores.float(), case["in/labels"][:, None] == torch.arange(c["nc"]))
        case.fact(case.facts, "top1", round(within(found, 1).item(), 2))
        case.fact(case.facts, "top5", round(within(found, 5).item(), 2))


@checks(names=("internvideo1_zero_shot*",))
def internvideo1_zero_shot(case: Case) -> None:
    c = case.facts["config"]
    video, scale = case["in/video_feats"], case["in/logit_scale"]
    case.sizes(c, batch=len(video), dim=video.shape[1])
    case.fact(c, "logit_scale", scale.item(), {"atol": 1e-6, "rtol": 1e-6})
    texts = F.normalize(case["in/text_feats"], dim=-1).unflatten(0, (c["prompts"], c["classes"])).transpose(0, 1)
    scores = template_scores(F.normalize(video, dim=-1), texts, float(scale.exp()))
    case.close("out/scores", scores.float())
