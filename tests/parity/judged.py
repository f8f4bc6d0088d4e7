"""How models are judged against the official code: recalls, dual softmax, zero-shot scores."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from pretrain.metrics.ranking import by_video, dual_softmax, ranks, recalls, within
from pretrain.metrics.zero_shot import template_scores
from tests.parity import CLOSE


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
    """What the released evaluator says of similarities of which many are equal (UMT's re-ranking leaves -100 outside
    the first k) lies between ours and what luck with all of them would give: its sort puts them in any order."""
    lucky = text_to_video + 1e-3 * right, video_to_text + 1e-3 * right.t()
    worst, best = official(text_to_video, video_to_text, right), official(*lucky, right)
    assert worst.keys() == expected.keys()
    for name, value in expected.items():
        assert worst[name] <= value <= best[name], (name, worst[name], value, best[name])


def same_as_clip4clip(sim: Tensor, right: Tensor, expected: dict[str, float]) -> None:
    found = ranks(sim, right)
    made = {name: value.item() for name, value in recalls(found).items()}
    made |= {"MR": made["MdR"], "MedianR": made["MdR"], "MeanR": made["MnR"]}
    made["Std_Rank"] = found.double().std(unbiased=False).item()
    for name, value in expected.items():
        assert abs(made[name] - value) < 1e-5, (name, made[name], value)  # some of theirs are float32


def retrieval(facts: dict, t: dict[str, Tensor]) -> None:
    video, text = t["in/video_feats"], t["in/text_feats"]
    owner = torch.tensor([facts["txt2img"][str(i)] for i in range(len(text))])
    right = owner[:, None] == torch.arange(len(video))
    sim = cosines(text, video)
    both = dual_softmax(sim), dual_softmax(sim.t())
    assert_close(sim.t().float(), t["out/sim_v2t"], **CLOSE)
    assert_close(both[0].float(), t["out/sim_t2v_dual_softmax"], **CLOSE)
    assert_close(both[1].float(), t["out/sim_v2t_dual_softmax"], **CLOSE)
    assert official(sim, sim.t(), right) == facts["viclip_metrics"]
    assert official(*both, right) == facts["viclip_metrics_dual_softmax"]

    first = [int((owner == v).nonzero()[0]) for v in range(len(video))]  # CLIP4Clip's plain form: a caption a video
    square, own = sim[first], torch.eye(len(video), dtype=torch.bool)
    assert_close(square.float(), t["out/square_t2v"], **CLOSE)
    for name, matrix in (("t2v", square), ("v2t", square.t())):
        same_as_clip4clip(matrix, own, facts["clip4clip"][name])
        same_as_clip4clip(dual_softmax(matrix), own, facts["clip4clip"][f"{name}_dual_softmax"])
    same_as_clip4clip(sim, right, facts["clip4clip_multi_sentence"]["t2v"])
    same_as_clip4clip(by_video(sim.t(), right), own, facts["clip4clip_multi_sentence"]["v2t"])


def viclip_zero_shot(facts: dict, t: dict[str, Tensor]) -> None:
    c = facts["config"]
    texts = F.normalize(t["in/text_feats"], dim=-1).unflatten(0, (c["nc"], c["prompts"]))
    scores = template_scores(F.normalize(t["in/video_feats"], dim=-1), texts)
    assert_close(scores.float(), t["out/scores"], **CLOSE)
    found = ranks(scores.float(), t["in/labels"][:, None] == torch.arange(c["nc"]))
    assert round(within(found, 1).item(), 2) == facts["top1"]
    assert round(within(found, 5).item(), 2) == facts["top5"]


def internvideo1_zero_shot(facts: dict, t: dict[str, Tensor]) -> None:
    c = facts["config"]
    texts = F.normalize(t["in/text_feats"], dim=-1).unflatten(0, (c["prompts"], c["classes"])).transpose(0, 1)
    scores = template_scores(F.normalize(t["in/video_feats"], dim=-1), texts, float(t["in/logit_scale"].exp()))
    assert_close(scores.float(), t["out/scores"], **CLOSE)


CHECKS = {
    "retrieval": retrieval,
    "viclip_zero_shot": viclip_zero_shot,
    "internvideo1_zero_shot": internvideo1_zero_shot,
}
