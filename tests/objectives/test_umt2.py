"""UMT's second stage: negatives, masked tokens and pixels that do not leak, padding, images, and weights in and out."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import models
from models.convert import bert as bert_names
from models.convert import umt as umt_names
from models.convert import umt2 as names
from models.convert.rules import to_theirs
from models.layers import take_patches
from pretrain.export.load_run import build
from pretrain.learning.contrast import global_masked_mean, hard_negatives
from pretrain.learning.masking import Attention, Random, Tube, complement
from pretrain.learning.matching import sample_negatives
from pretrain.learning.text_masking import IGNORE_INDEX
from pretrain.objectives import UMT, UMT2
from tests.helpers.methods import resolved
from tests.helpers.paths import ROOT
from tests.helpers.umt2 import (
    CLIP,
    SIZES,
    TEXTS,
    batch,
    official,
    random_state,
    student,
    tower,
    tuned,
    whole,
    words,
)

# Losses


def test_a_negative_never_has_the_same_name() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.tensor([0, 1, 0, 2, 1, 3])
    pair = same[:, None] == same
    # True pairs are by far the most similar.
    similar = torch.where(
        pair, 1000.0, torch.randn(6, 6, generator=generator)
    )  # true pairs are by far the most similar
    drawn = torch.stack([hard_negatives(similar, pair, torch.rand(6, 6, generator=generator))[0] for _ in range(500)])
    assert not (same[drawn] == same).any()
    likeliest = similar.masked_fill(pair, -1000).argmax(1)
    assert (drawn == likeliest).float().mean() > 1.5 / 6  # and often a hard one
    for noise in (torch.zeros(6, 6), torch.full((6, 6), 1 - 2**-24)):
        column, has_negative = hard_negatives(similar, pair, noise)
        assert not pair[torch.arange(6), column].any() and has_negative.all()


def test_negatives_do_not_depend_on_the_world_size() -> None:
    """Two ranks are simulated one after the other: each draws the same negatives for its rows as one process does."""
    generator = torch.Generator().manual_seed(0)
    video, text, same = torch.randn(6, 8, generator=generator), torch.randn(6, 8, generator=generator), torch.arange(6)
    noise, rate = torch.rand(6, 13, generator=generator), torch.tensor(0.1)
    one = sample_negatives(video, text, same, rate, noise, lambda x: x)
    dealt = torch.tensor([0, 2, 4, 1, 3, 5])  # the rows of rank 0, then of rank 1
    for rows in dealt.split(3):
        gathered = iter((video[dealt], text[dealt], same[dealt], noise[dealt, -1]))
        found = sample_negatives(
            video[rows], text[rows], same[rows], rate, noise[rows], lambda _, all_=gathered: next(all_)
        )
        for ours, alone in zip(found[:2], one, strict=False):
            assert torch.equal(dealt[ours], alone[rows])


@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_without_negatives_trains(rows: int) -> None:
    model, small = whole(), batch(rows)
    small["name"] = ["same"] * rows
    losses = model(small)
    assert set(losses) == {"contrast", "matching", "words", "alignment"}
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_losses_are_weighted_and_those_of_weight_0_not_computed() -> None:
    plain, weighed = whole()(batch()), whole(words_weight=0.5, matching_weight=2.0, alignment_weight=0.1)(batch())
    for name, weight in (("contrast", 1), ("matching", 2), ("words", 0.5), ("alignment", 0.1)):
        torch.testing.assert_close(weighed[name], weight * plain[name])
    assert set(tuned()(batch())) == {"contrast", "matching"}
    alone = UMT2(
        student(), tower(fusion=3, head=False), words(), 24, matching_weight=0, words_weight=0, alignment_weight=0
    )
    assert set(alone(batch())) == {"contrast"}


def test_the_masked_mean_of_one_rank() -> None:
    values, counts = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 1.0, 0.0])
    assert global_masked_mean(values, counts) == 1.5 == global_masked_mean(values, counts, local=True)
    assert global_masked_mean(values, torch.zeros(3)) == 0


def test_masked_tokens_do_not_reach_their_prediction() -> None:
    model = whole().eval()
    tokens, _ = model.encode(model.normalize(batch()["video"]))
    guesses = []
    for text in ("a red circle moves left", "a blue cross moves up"):
        ids, seen = model.tokenize([text] * 4)
        hidden = torch.tensor([False, False, True, True, False, True, False])
        read = torch.where(hidden, model.words.tokenizer.mask, ids)
        guesses.append(model.text.token_logits(model.text(read, seen, tokens)))
    torch.testing.assert_close(*guesses)


def test_tokens_are_masked_as_in_bert() -> None:
    model = whole(hide=0.5)
    ids, seen = model.tokenize(TEXTS * 500)
    read, labels = model.mask_tokens(ids, seen, model.generator(ids.device))
    hidden, tokenizer = labels != IGNORE_INDEX, model.words.tokenizer
    assert torch.equal(labels[hidden], ids[hidden]) and torch.equal(read[~hidden], ids[~hidden])
    may = seen & (ids != tokenizer.start)
    assert not (hidden & ~may).any() and hidden[may].float().mean() == pytest.approx(0.5, abs=0.02)
    assert (read[hidden] == tokenizer.mask).float().mean() == pytest.approx(0.8 + 0.1 / 39, abs=0.02)
    assert (read[hidden] == ids[hidden]).float().mean() == pytest.approx(0.1 + 0.1 / 39, abs=0.02)
    # The draw for a text does not depend on what else is in the batch, nor on how far it is padded.
    (longer, _), (shorter, _) = (
        model.mask_tokens(ids[:4, :n], seen[:4, :n], model.generator(ids.device)) for n in (7, 5)
    )
    assert torch.equal(longer[:, :5], shorter)


def test_padding_changes_nothing() -> None:
    model = tuned().eval()
    video = batch()["video"]
    tokens = model.predict({"video": video})["tokens"]
    ids = model.words(TEXTS)
    seen = ids != 0
    other = torch.where(seen, ids, 7)
    for a, b in zip(model.text.encode(ids, seen), model.text.encode(other, seen), strict=True):
        torch.testing.assert_close(a[0], b[0])
    alone = torch.cat([model.encode_text([text]) for text in TEXTS])
    torch.testing.assert_close(model.encode_text(TEXTS), alone)
    matched = torch.cat([model.match(tokens[i : i + 1], [text]) for i, text in enumerate(TEXTS)])
    torch.testing.assert_close(model.match(tokens, TEXTS), matched)


def test_masked_pixels_reach_no_feature() -> None:
    model = whole()
    clip = model.normalize(batch()["video"]).requires_grad_()
    keep, _ = model.visible_and_targets(clip.detach(), model.generator(clip.device))
    tokens, layers = model.encode(clip, keep)
    (model.project_video(tokens, False).sum() + sum(layer.sum() for layer in layers)).backward()
    assert keep.shape == (4, 16)
    assert take_patches(clip.grad, complement(keep, 64), 1, 8).abs().max() == 0


@pytest.mark.parametrize("mask", [None, Tube(0.5), Random(0.5), Attention(0.5)])
def test_any_mask_and_none(mask) -> None:
    model = whole(mask=mask)
    losses = model(batch())
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_whole_video_is_compared_frame_by_frame() -> None:
    model = tuned()
    tokens = torch.randn(2, 64, 48, generator=torch.Generator().manual_seed(0))
    frames = model.project_video(tokens, True)
    assert frames.shape == (2, 4, 24) and model.project_video(tokens, False).shape == (2, 1, 24)
    torch.testing.assert_close(frames[:, 2:3], model.project_video(tokens[:, 32:48], False))
    assert tuned(per_frame=False).project_video(tokens, True).shape == (2, 1, 24)


def test_images_are_clips_of_one_frame() -> None:
    model = whole(image_mask=Attention(0.5))
    still = batch(frames=1)
    stretched = {**still, "video": still["video"].expand(-1, -1, 4, -1, -1)}
    frames = [model.on_host(videos)["video"].shape[2] for videos in (stretched, batch())]
    assert frames == [1, 4]
    mixed = torch.cat((stretched["video"][:1], batch()["video"][1:]))
    assert model.on_host({"video": mixed})["video"].shape[2] == 4  # a batch of both is one of videos
    keep, _ = model.visible_and_targets(model.normalize(still["video"]), model.generator(torch.device("cpu")))
    assert keep.shape == (4, 8)
    one, other = model(still), model(model.on_host(stretched))
    for name, loss in one.items():
        torch.testing.assert_close(loss, other[name])
    assert whole().on_host(stretched)["video"].shape[2] == 4  # not tested without an image_mask


def test_features_and_matching_for_metrics() -> None:
    model = tuned().eval()
    made = model.predict(batch())
    assert made["tokens"].shape == (4, 64, 48) and made["features"].shape == (4, 24)
    torch.testing.assert_close(model.encode_video(batch()["video"]), made["features"])
    texts = model.encode_text(TEXTS * 100)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(400))
    with torch.no_grad():
        frames = F.normalize(model.project_video(made["tokens"], True), dim=-1)
    torch.testing.assert_close(made["features"] @ texts[:4].t(), (frames @ texts[:4].t()).mean(1))
    ids, seen = model.tokenize(TEXTS)
    logits = model.match_logits(made["tokens"], model.text.encode(ids, seen), seen)
    torch.testing.assert_close(model.match(made["tokens"], TEXTS), logits[:, 1])


@pytest.mark.parametrize("text", ["", "😀 🎬", "a red " * 5000, "...", "[MASK] [SEP] [PAD] red"])
def test_odd_captions_train(text: str) -> None:
    model, odd = whole(), batch()
    odd["text"] = [text, *TEXTS[1:]]
    assert all(loss.isfinite() for loss in model(odd).values())
    assert model.encode_text([text]).isfinite().all()


def test_a_caption_that_is_no_string_raises() -> None:
    with pytest.raises(ValueError, match="should be a string, and one is NoneType"):
        whole()({**batch(), "text": [None, *TEXTS[1:]]})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: whole(contrast_weight=0.0), "contrast_weight must be above 0"),
        (lambda: whole(decoder=None), "alignment needs a decoder and a teacher"),
        (lambda: whole(alignment_weight=0.0), "alignment needs a decoder and a teacher"),
        (lambda: whole(words_weight=0.0), "need the text tower's `head`"),
        (lambda: tuned(words_weight=1.0), "need the text tower's `head`"),
        (lambda: tuned(matching_weight=0.0), "of 3 layers 1 have no cross-attention"),
        (lambda: UMT2(student(), tower(source=32), words(), teacher=None), "alignment needs"),
        (
            lambda: UMT2(student(), tower(source=32, head=False), words(), words_weight=0, alignment_weight=0),
            "attends to 32",
        ),
        (lambda: UMT2(student(), tower(head=False), words(17), words_weight=0, alignment_weight=0), "gives 17 places"),
        (
            lambda: UMT2(student(), tower(head=False, vocabulary=20), words(), words_weight=0, alignment_weight=0),
            "has 39 tokens, the text tower 20",
        ),
        (lambda: tuned(image_mask=Tube(0.5), encoder=student(tubelet=2)), "images are one frame"),
        (lambda: tower(fusion=4), "fusion 4 is not between 0 and the depth 3"),
        (lambda: tuned(mask=Attention(0.5))(batch()), "needs a teacher"),
        (lambda: tower().encode(torch.zeros(1, 17).long(), torch.ones(1, 17).bool()), "texts of 17 places"),
        (lambda: student(tubelet=2)(torch.zeros(1, 3, 1, 32, 32)), "made for 4 frames"),
    ],
)
def test_parts_that_do_not_fit_raise(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_matching_needs_its_head() -> None:
    model = UMT2(student(), tower(), words(), 24, matching_weight=0.0, alignment_weight=0.0)
    with pytest.raises(ValueError, match="no head to match by"):
        model.match(torch.zeros(1, 64, 48), ["red"])


# Weights


def test_official_weights_find_their_places(tmp_path: Path) -> None:
    model = whole()
    torch.save({"model": official(model), "epoch": 9}, tmp_path / "b16.pth")
    report = models.load_weights(model, tmp_path / "b16.pth")
    assert not report.missing and report.unused and all(name.startswith("clip_teacher.") for name in report.unused)
    for name, tensor in random_state(model).items():
        assert torch.equal(model.state_dict()[name], tensor)
    teacher = models.CLIPVision(*CLIP)
    report = models.load_weights(teacher, tmp_path / "b16.pth")
    assert not report.missing and not [name for name in report.unused if name.startswith("clip_teacher.")]
    assert torch.equal(teacher.cls_token, random_state(model.teacher.model)["cls_token"])
    for part, kind in ((student(), "encoder."), (tower(), "text.")):
        report = models.load_weights(part, tmp_path / "b16.pth")
        assert not report.missing and len(report.loaded) == len(part.state_dict()), kind
    odd = {**official(model), "text_encoder.cls.predictions.decoder.weight": torch.zeros(39, 32)}
    assert "text_encoder.cls.predictions.decoder.weight" in models.load_weights(model, odd).unused


def test_fine_tuning_starts_from_pretraining_with_more_frames() -> None:
    weights, model = official(whole()), UMT2(
        student(frames=8), tower(head=False), words(), 24, words_weight=0, alignment_weight=0
    )  # fmt: skip
    report = models.load_weights(model, weights)
    assert not report.missing
    assert {name.split(".")[0] for name in report.unused} == {"clip_teacher", "vision_encoder", "text_encoder"}
    assert all("clip_decoder" in n or "cls" in n or "clip_teacher" in n for n in report.unused)
    theirs, unknown = names.to_official(model.state_dict(), tuned=True)
    assert not unknown and "text_encoder.embeddings.word_embeddings.weight" in theirs
    assert not models.load_weights(model, theirs).unused


@pytest.mark.parametrize("ours", [True, False])
def test_the_student_comes_from_stage_one_and_the_text_from_bert(ours: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = UMT(student(frames=8), models.FeatureDecoder(48, 24, 2, **{**SIZES, "frames": 8}), whole().teacher)
    state = random_state(first)
    torch.save({"model": state if ours else to_theirs(umt_names.OFFICIAL_PRETRAIN, state)[0]}, tmp_path / "stage1.pth")
    plain = tower(fusion=3)
    read, _ = to_theirs(bert_names.TRANSFORMERS, {f"text.{n}": t for n, t in random_state(plain).items()})
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in read.items()}
    torch.save({**old, "bert.pooler.dense.weight": torch.zeros(32, 32)}, tmp_path / "bert.bin")
    model = whole(weights=[str(tmp_path / "stage1.pth"), str(tmp_path / "bert.bin")])
    before = model.text.blocks[2].cross.q.weight.clone()
    model.setup("fit")
    assert torch.equal(model.encoder.norm.weight, state["encoder.norm.weight"])
    assert torch.equal(model.decoder.heads[1].weight, state["decoder.heads.1.weight"])
    assert torch.equal(model.text.blocks[2].attn.kv.weight, random_state(plain)["blocks.2.attn.kv.weight"])
    assert torch.equal(model.text.blocks[2].cross.q.weight, before)
    report = models.load_weights(model, tmp_path / "bert.bin")
    assert report.unused == ["bert.pooler.dense.weight"]
    assert all(
        name.startswith(("encoder", "decoder", "pool", "video", "text_proj", "match", "temp")) or ".cross." in name
        for name in report.missing
    )
    with pytest.raises(ValueError, match=r"another architecture.*text.blocks.2"):
        models.load_weights(whole(), {n: t for n, t in read.items() if ".layer.2." not in n})


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertModel"])
def test_bert_of_transformers_has_the_same_outputs(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=39, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=20,
    )  # fmt: skip
    theirs = getattr(transformers, kind)(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = tower(fusion=3, head=kind == "BertForMaskedLM").eval()
    report = models.load_weights(ours, tmp_path)
    assert not report.missing and all("pooler" in name for name in report.unused), report
    ids, seen = words()(TEXTS), words()(TEXTS) != 0
    with torch.no_grad():
        found, expected = ours.encode(ids, seen), theirs(ids, attention_mask=seen.long())
        expected = expected[0]
        found = ours.token_logits(found) if kind == "BertForMaskedLM" else found
    torch.testing.assert_close(found[seen], expected[seen], atol=1e-5, rtol=1e-4)


# Recipes


# All that is trained, and the teacher, in millions: counted with the official code.
MILLIONS = {"b": (291.6, 86.2), "l": (969.5, 303.9)}


@pytest.mark.parametrize("size", MILLIONS)
def test_recipes_have_the_published_sizes_and_settings(size: str, capsys: pytest.CaptureFixture) -> None:
    truth = resolved(
        capsys, ["-c", str(ROOT / f"recipes/umt2_{size}.yaml"), "-c", str(ROOT / "recipes/data/webvid_cc3m.yaml")]
    )
    with torch.device("meta"):
        model = build(truth["model"])
    teacher, ours = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.teacher.model, model))
    assert (round(ours + teacher, 1), round(teacher, 1)) == MILLIONS[size]
    data = truth["data"]["init_args"]
    assert (model.optim.lr, model.optim.min_lr) == pytest.approx((1e-4, 1e-6))
    assert (model.mask.ratio, model.image_mask.ratio, model.hide, data["frames"]) == (0.8, 0.5, 0.5, 4)
    assert data["train"]["init_args"]["strip"] == data["global_batch"] == 2048  # a step has one kind
    still = {n for n, p in model.named_parameters() if not model.optim.decays(n, p)}
    assert "temperature" not in still and "text.token_embed.weight" not in still and "text.norm.weight" in still
