"""UMT stage 2, fine-tuned, against the official code: retrieval with re-ranking, and answers to questions."""

import torch

import models
from models.convert import umt2 as names
from pretrain.objectives import VideoQA
from tests.parity import checks
from tests.parity.case import Case
from tests.parity.metrics import official, official_among_equals
from tests.parity.umt2 import encoder_of, stage2, text_of, words_of
from tests.parity.weights import check_gradients

PRETRAINING = {
    "config.teacher.*": "fine-tuned models have no teacher",
    "config.vision.clip_return_layer": "fine-tuned models have no teacher",
    "config.*mask*": "nothing is masked",
    "config.mlm_prob": "nothing is masked",
}


@checks(
    names=("umt_retrieval*",), not_needed={**PRETRAINING, "in/attention_mask": "True where `in/input_ids` is not 0"}
)
def umt_retrieval(case: Case) -> None:
    model = stage2(case, case.part("model"), aligned=False)
    video, rows = case["in/video_btchw"].transpose(1, 2), len(case["in/input_ids"])
    texts = [str(i) for i in range(rows)]
    made = model.predict({"video": video})
    similar = made["features"] @ model.encode_text(texts).t()
    case.close("out/i2t", similar)
    right = torch.zeros(rows, len(video), dtype=torch.bool)
    for caption, owner in case.facts["txt2img"].items():
        right[int(caption), owner] = True
    metrics = case.facts.get("metrics", {})
    case.fact(metrics, "dual_encoder", official(similar.t(), similar, right))
    k, reranked = case.facts["k_test"], {}
    for by_video, name in ((True, "out/i2t_rerank"), (False, "out/t2i_rerank")):
        scores = similar if by_video else similar.t()
        found = torch.full_like(scores, -100.0)
        for row, best in enumerate(scores.topk(min(k, scores.shape[1]), dim=1).indices):
            tokens = made["tokens"][[row] * len(best) if by_video else best]
            chosen = best.tolist() if by_video else [row] * len(best)
            found[row, best] = model.match(tokens, [texts[i] for i in chosen])
        case.close(name, found)
        reranked[name] = case.get(name, found)  # theirs, whose ties are not ours
    if "rerank" in metrics:
        official_among_equals(reranked["out/t2i_rerank"], reranked["out/i2t_rerank"], right, metrics["rerank"].plain())


@checks(
    names=("umt_qa*",),
    not_needed={
        **PRETRAINING,
        "config.embed": "nothing is contrasted",
        "config.temp": "nothing is contrasted",
        "config.w": "the one loss has no weight",
    },
)
def umt_qa(case: Case) -> None:
    c, weights, writer = case.facts["config"], case.part("model"), case.facts["decoder"]
    vision, text = c["vision"], c["text"]
    questions, candidates = case["in/question_ids"], case["in/candidate_ids"]
    case.sizes(c, txt_len=questions.shape[1])
    decoder = text_of(
        text, writer["encoder_width"], layers=writer["layers"], fusion=writer["fusion_layer"], causal=True
    )
    model = VideoQA(
        encoder_of(vision, weights),
        text_of(text, vision["width"], head=False),
        decoder,
        words_of(case, questions, text["vocab"]),
        answers=[str(i) for i in range(len(candidates))],
        candidates=case.facts["k_test"],
    ).eval()
    report = models.load_weights(model, weights)
    assert not report.unused and all(name.startswith("encoder.") for name in report.missing), report
    state, _ = names.to_official(model.state_dict(), tuned=True)
    for name, tensor in weights.items():
        assert torch.equal(state[name], tensor), name

    visible = case["in/question_mask"].bool()
    states = model.text(questions, visible, case["in/vision_embeds"])
    if "in/answer_ids" in case:
        counts = torch.tensor(case.facts.get("answers_per_question", [1] * len(questions)))
        owner = torch.arange(len(counts)).repeat_interleave(counts)
        answers = case["in/answer_ids"], case["in/answer_mask"].bool()
        each = model.answer_loss(states[owner], visible[owner], *answers)
        loss = (case["in/answer_weights"] * each).sum() / len(counts)
        case.close("out/loss", loss)
        loss.backward()
        check_gradients(case, model, names.OFFICIAL_TUNED)
    with torch.no_grad():
        ids, scores = model.rank_answers(states, visible, candidates, case["in/candidate_mask"].bool())
    case.equal("out/rank_ids", ids)
    case.close("out/rank_probs", scores)
