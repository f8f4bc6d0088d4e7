"""UMT's second stage against the official code: teacher, student, features, four losses and their gradients, retrieval
with re-ranking, answers to questions."""

import torch
import torch.nn.functional as F
from torch.testing import assert_close

import models
from models.convert import umt2 as names
from models.convert.rules import to_theirs
from models.tokenizers import Tokenizer, Words
from pretrain.learning.contrast import hard_negatives, same_pairs, similarity
from pretrain.learning.masking import Attention
from pretrain.learning.teachers import Frozen, resize_frames
from pretrain.learning.text_masking import IGNORED
from pretrain.objectives import UMT2, VideoQA
from tests.parity import CLOSE, part
from tests.parity.judged import official, official_among_equals


class Numbered(Tokenizer):
    """Texts of a case are its rows of ids: row `i` is read where a text says `i`."""

    def __init__(self, ids: torch.Tensor, special: dict[str, int], vocabulary: int) -> None:
        self.ids, self.context, self.vocabulary = ids, ids.shape[1], vocabulary
        self.pad, self.start, self.end, self.mask = (special.get(k) for k in ("pad", "cls", "sep", "mask"))

    def __call__(self, texts: list[str]) -> torch.Tensor:
        return self.ids[[int(text) for text in texts]]


SPECIAL = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}


def close(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    assert_close(ours, theirs, **CLOSE, msg=lambda m: f"{what}: {m}")


def encoder_of(c: dict, weights: dict) -> models.VideoViT:
    mlp = weights.get("vision_encoder.encoder.blocks.0.mlp.fc1.weight", torch.empty(4 * c["width"], 1)).shape[0]
    sizes = {"patch": c["patch"], "tubelet": c["tubelet"], "frames": c["frames"], "size": c["res"]}
    return models.VideoViT(c["width"], c["layers"], c["heads"], mlp, **sizes)


def text_of(c: dict, source: int, **options) -> models.Bert:
    sizes = c["width"], c["layers"], c["heads"], c["ffn"]
    return models.Bert(
        *sizes, **{"fusion": c["fusion"], "source": source, **options}, vocabulary=c["vocab"], context=c["max_pos"]
    )


def stage2(facts: dict, t: dict, whole: bool) -> UMT2:
    """A UMT2 with a case's weights, in eval mode; `whole`: with all four losses, else as fine-tuned for retrieval."""
    c, weights = facts["config"], part(t, "model")
    vision, teacher = c["vision"], c["teacher"]
    encoder = encoder_of(vision, weights)
    head = any("cls.predictions" in name for name in weights)
    text = text_of(c["text"], vision["width"], head=head)
    words = Words(Numbered(t["in/input_ids"], facts.get("special_ids", SPECIAL), c["text"]["vocab"]), clean=False)
    parts: dict = {"matching_weight": c["w"][2], "words_weight": c["w"][3] if head else 0, "alignment_weight": 0}
    if whole:
        sizes = vision["patch"], vision["tubelet"], vision["frames"], vision["res"]
        parts["decoder"] = models.FeatureDecoder(
            vision["width"], teacher["out"], vision["clip_return_layer"], *sizes, 1e-5
        )
        mlp = weights["clip_teacher.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
        tower = models.CLIPVision(
            teacher["width"], teacher["layers"], teacher["heads"], mlp, teacher["patch"], teacher["res"], teacher["out"]
        )
        report = models.load_weights(tower, weights)
        assert not report.missing and all(not name.startswith("clip_teacher.") for name in report.unused), report
        parts["teacher"] = Frozen(tower, weights="read above")
        parts["teacher"].weights = None
        parts |= {"mask": Attention(c["video_mask_ratio"]), "image_mask": Attention(c["image_mask_ratio"])}
        parts["alignment_weight"] = c["w"][0]
    model = UMT2(encoder, text, words, c["embed"], contrast_weight=c["w"][1], **parts)
    report = models.load_weights(model, weights)
    spare = [name for name in report.unused if not name.startswith("clip_teacher.")]
    assert not report.missing, report
    assert not spare or (not whole and all("clip_decoder" in name for name in spare)), report
    tuned = "text_encoder.embeddings.word_embeddings.weight" in weights
    state, unknown = names.to_official(model.state_dict(), tuned)
    assert not unknown
    for name, tensor in state.items():  # and back, to the last bit
        assert torch.equal(tensor, weights[name]), name
    return model.eval()


def umt_stage2(facts: dict, t: dict) -> None:
    model, out = stage2(facts, t, whole=True), part(t, "out")
    video = t["in/video_btchw"].transpose(1, 2)
    ids, seen = t["in/input_ids"], t["in/attention_mask"].bool()
    rows, frames = len(video), video.shape[2]
    grid = frames, *model.encoder.grid[1:]

    # The teacher, and what it lets the student see
    clip = model.teacher.model
    attention = model.teacher(resize_frames(video, clip.size)).attention
    close(attention.flatten(0, 1), out["teacher_cls_attention"], "attention")
    hidden = out["teacher_mask"].view(rows, -1)
    keep = (~hidden).nonzero()[:, 1].view(rows, -1)
    mask = model.image_mask if frames == 1 else model.mask
    torch.manual_seed(facts["torch_manual_seed"])  # the uniform numbers whose exponentials `torch.multinomial` draws
    noise = -torch.expm1(-torch.empty(rows * frames, attention.shape[2]).exponential_(1).double()).view(rows, -1)
    assert torch.equal(mask(noise, grid, attention), keep)
    target = model.teacher(resize_frames(video, clip.size), taps=model.teacher_taps, choose=lambda _: keep).features
    close(torch.stack(target), out["teacher_targets"], "targets")

    check_words(model, ids, seen, out)

    # The student and the features
    tokens, layers = model.see(video, keep)
    close(tokens, out["vision_embeds"], "tokens")
    close(torch.stack(model.decoder(layers, keep)), out["student_output"], "student")
    close(model.pool_norm(tokens.mean(1, keepdim=True)), out["pooled_vision_embeds"], "pooled")
    feature = model.pool(tokens, whole=False)
    close(feature, out["vision_proj"], "video feature")
    states = model.text.read(ids, seen)
    close(states, out["text_embeds"], "text")
    text = model.text_proj(states[:, 0])
    close(text, out["text_proj"], "text feature")
    with torch.no_grad():
        everything, _ = model.see(video)
        close(everything, out["test_vision_embeds"], "tokens of the whole video")
        per_frame = everything.unflatten(1, (frames, -1)).mean(2)
        close(model.pool_norm(per_frame), out["test_pooled_vision_embeds"], "pooled frames")
        found = F.normalize(model.video_proj(out["test_pooled_vision_embeds"]), dim=-1).mean(1)
        close(model.encode_video(video), found, "encode_video")
        close(model.encode_text([str(i) for i in range(rows)]), F.normalize(out["text_proj"], dim=-1), "encode_text")

    # The losses, with the recorded draws
    model.choose = lambda video, dice: (keep, target)
    model.draw_negatives = lambda *_: (out["vtm_vision_neg"], out["vtm_text_neg"], torch.ones(rows))
    model.hide_words = lambda ids, *_: (out["mlm_input_ids"][:, : ids.shape[1]], out["mlm_labels"][:, : ids.shape[1]])
    batch = {"video": video, "text": [str(i) for i in range(rows)], "name": [str(i) for i in t["in/idx"].tolist()]}
    losses = model(batch)
    for name, theirs in (("alignment", "uta"), ("contrast", "vtc"), ("matching", "vtm"), ("words", "mlm")):
        close(losses[name], out[f"loss_{theirs}"], name)
    check_negatives(similarity(feature, text, model.temperature).detach(), same_pairs(t["in/idx"]), out)
    wrong_video, wrong_text = out["vtm_vision_neg"], out["vtm_text_neg"]
    logits = model.match_logits(
        torch.cat((tokens, tokens[wrong_video], tokens)),
        torch.cat((states, states, states[wrong_text])),
        torch.cat((seen, seen, seen[wrong_text])),
    )
    close(logits, out["vtm_logits"], "matching logits")
    total = sum(losses.values())
    close(total, out["total"], "total")

    model.zero_grad()
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    ours, _ = to_theirs(names.OFFICIAL, gradients)
    expected = part(t, "grad")
    assert expected
    for name, gradient in expected.items():
        close(ours[name], gradient, f"gradient of {name}")


def check_negatives(similar: torch.Tensor, same: torch.Tensor, out: dict) -> None:
    """The recorded weights are ours, and our draws have them for chances."""
    for weights, sims in ((out["vtm_weights_v2t"], similar), (out["vtm_weights_t2v"], similar.t())):
        close(sims.softmax(dim=1).masked_fill(same, 0), weights, "weights of negatives")
        draws = 20_000
        noise = torch.rand(draws * len(sims), len(sims), generator=torch.Generator().manual_seed(0))
        column, has_negative = hard_negatives(sims.repeat(draws, 1), same.repeat(draws, 1), noise)
        drawn = F.one_hot(column, len(sims)).view(draws, *sims.shape).float().mean(0)
        chance = weights / weights.sum(1, keepdim=True)
        assert has_negative.all() and not drawn[same].any()
        assert ((drawn - chance).abs() < 5 * (chance * (1 - chance) / draws).sqrt() + 1e-6).all()


def check_words(model: UMT2, ids: torch.Tensor, seen: torch.Tensor, out: dict) -> None:
    """The recorded choice of words is one that ours can make: the same places may be hidden, with the same labels."""
    labels = out["mlm_labels"]
    hidden = labels != IGNORED
    model.hide, before = 1.0, model.hide
    read, every = model.hide_words(ids, seen, model.generator(ids.device))
    model.hide = before
    assert not (hidden & (every == IGNORED)).any() and torch.equal(every[hidden], labels[hidden])
    assert torch.equal(out["mlm_input_ids"][~hidden], ids[~hidden]) and read.shape == ids.shape


def umt_retrieval(facts: dict, t: dict) -> None:
    model = stage2(facts, t, whole=False)
    video, rows = t["in/video_btchw"].transpose(1, 2), len(t["in/input_ids"])
    texts = [str(i) for i in range(rows)]
    made = model.predict({"video": video})
    similar = made["features"] @ model.encode_text(texts).t()
    close(similar, t["out/i2t"], "similarity")
    right = torch.zeros(rows, len(video), dtype=torch.bool)
    for caption, of in facts["txt2img"].items():
        right[int(caption), of] = True
    assert official(similar.t(), similar, right) == facts["metrics"]["dual_encoder"]
    official_among_equals(t["out/t2i_rerank"], t["out/i2t_rerank"], right, facts["metrics"]["rerank"])
    k = facts["k_test"]
    for scores, expected in ((similar, t["out/i2t_rerank"]), (similar.t(), t["out/t2i_rerank"])):
        found = torch.full_like(scores, -100.0)
        for row, best in enumerate(scores.topk(min(k, scores.shape[1]), dim=1).indices):
            by_video = scores is similar
            tokens = made["tokens"][[row] * len(best) if by_video else best]
            found[row, best] = model.match(
                tokens, [texts[i] for i in (best.tolist() if by_video else [row] * len(best))]
            )
        close(found, expected, "re-ranked")


def umt_qa(facts: dict, t: dict) -> None:
    c, weights = facts["config"], part(t, "model")
    vision, text = c["vision"], c["text"]
    writer = {**text, "layers": facts["decoder"]["layers"]}
    special = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}
    model = VideoQA(
        encoder_of(vision, weights),
        text_of(text, vision["width"], head=False),
        text_of(writer, text["width"], fusion=facts["decoder"]["fusion_layer"], causal=True),
        Words(Numbered(t["in/question_ids"], special, text["vocab"]), clean=False),
        answers=[str(i) for i in range(len(t["in/candidate_ids"]))],
        candidates=facts["k_test"],
    ).eval()
    report = models.load_weights(model, weights)
    assert not report.unused and all(name.startswith("encoder.") for name in report.missing), report
    state, _ = names.to_official(model.state_dict(), tuned=True)
    for name, tensor in weights.items():
        assert torch.equal(state[name], tensor), name

    seen = t["in/question_mask"].bool()
    states = model.text(t["in/question_ids"], seen, t["in/vision_embeds"])
    counts = torch.tensor(facts["answers_per_question"])
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    each = model.answer_errors(states[owner], seen[owner], t["in/answer_ids"], t["in/answer_mask"].bool())
    loss = (t["in/answer_weights"] * each).sum() / len(counts)
    close(loss, t["out/loss"], "loss")
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    ours, _ = to_theirs(names.OFFICIAL_TUNED, gradients)
    for name, gradient in part(t, "grad").items():
        close(ours[name], gradient, f"gradient of {name}")
    with torch.no_grad():
        ids, scores = model.rank(states, seen, t["in/candidate_ids"], t["in/candidate_mask"].bool())
    assert torch.equal(ids, t["out/rank_ids"])
    close(scores, t["out/rank_probs"], "scores of answers")


CHECKS = {"umt_stage2": umt_stage2, "umt_retrieval": umt_retrieval, "umt_qa": umt_qa}
