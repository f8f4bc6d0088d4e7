"""Converse: rows of conversations, limits, packs, checkpoints without the frozen language model, allowed gaps."""

import json
import logging
from pathlib import Path

import pytest
import torch

import models
from datamodules import ShapeQuestions
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.pack_batches import PackedBatches, token_counts
from datamodules.loading.text_rows import Shown
from models.chat.qformer import QFormer
from models.tokenizers import BertTokenizer
from models.vit import VideoViT
from pretrain.learning.chat_rows import ChatRows, Row
from pretrain.learning.language import Language, LanguageLoRA
from pretrain.objectives import Align, Converse
from tests.helpers.host_reads import watch
from tests.helpers.paths import ROOT
from tests.helpers.runs import fit

SHAPES = str(ROOT / "recipes/data/shapes_chat")
LLAMA = {
    **{"model_type": "llama", "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "max_position_embeddings": 128},
}
LORA = LanguageLoRA(4, 8, 0.0, ["q_proj", "lm_head"])
RECIPE = ["-c", str(ROOT / "recipes/videochat2_instruct_tiny.yaml")]


def reader() -> BertTokenizer:
    return BertTokenizer(f"{SHAPES}/bert.txt", 40)


def chat(seed: int = 0, lora: LanguageLoRA | None = LORA, reads: bool = True, **options: object) -> Converse:
    torch.manual_seed(1)
    encoder = VideoViT(12, 2, 2, 24, patch=8, tubelet=1, frames=2, size=16, norm=False)
    text = {"vocabulary": 64, "context": 40} if reads else {"text": False}
    former = QFormer(16, 2, 2, 24, 12, dropout=0.0, **text)
    language = options.pop("language", None) or Language(LLAMA, random=seed, tokenizer=SHAPES, lora=lora)
    options = {"template": "vicuna", "queries": 3, "extra_queries": 2, "global_batch": 4, **options}
    made = Converse(encoder, former, language, reader=reader() if reads else None, **options)
    with torch.no_grad():
        for name, parameter in made.named_parameters():  # those that start at 0 hide what they do
            if "lora_B" in name or name.endswith("extra_queries"):
                parameter.normal_(std=0.3)
    return made


def batch_of(method: Converse, turns: int = 2) -> dict:
    rows = []
    for i in range(4):
        talk = [("what colour is it ?", "red", "look"), ("where does it move ?", "left right up"[: 4 * i + 2], "look")]
        rows.append(method.row_encoder.row(talk[:turns], None, size=(16, 16)))
    video = torch.randint(0, 256, (4, 3, 2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return {"video": video, "name": list("abcd"), "chat": rows}


def test_a_packed_batch_has_the_loss_and_the_gradients_of_a_padded_one() -> None:
    method = chat(constant_bos=True)
    batch, found = batch_of(method), []
    for method.packed in (False, True):
        method.zero_grad()
        loss = method(batch)["answer"]
        loss.backward()
        found.append((loss, {name: p.grad for name, p in method.named_parameters() if p.grad is not None}))
    packed = method.chat_batch(batch["chat"])
    assert packed.ids.shape == (1, sum(len(row["ids"]) for row in batch["chat"])) and packed.packs is not None
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    method.packed = False
    alone = [
        method({**batch, "video": batch["video"][i : i + 1], "chat": [batch["chat"][i]]})["answer"] for i in range(4)
    ]
    counts = torch.tensor([float((row["labels"] != -100).sum()) for row in batch["chat"]])
    torch.testing.assert_close((torch.stack(alone) * counts).sum() / counts.sum(), found[0][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_a_step_reads_nothing_of_the_device(packed: bool) -> None:
    method = chat(packed=packed)
    batch = batch_of(method)
    method(batch)  # what is made once, such as masks of the Q-Former
    with watch([*method.parameters(), *method.buffers(), batch["video"]]):
        method(batch)["answer"].backward()


def test_a_language_model_that_cannot_be_told_of_packs_is_refused() -> None:
    bloom = {"model_type": "bloom", "vocab_size": 64, "hidden_size": 24, "n_layer": 1, "n_head": 2}
    encoder = VideoViT(12, 2, 2, 24, patch=8, tubelet=1, frames=2, size=16, norm=False)
    parts = encoder, QFormer(16, 2, 2, 24, 12, text=False), Language(bloom, random=0, tokenizer=SHAPES)
    with pytest.raises(ValueError, match="set packed to false"):
        Converse(*parts, "vicuna", packed=True)
    method = Converse(*parts, "vicuna", queries=3, extra_queries=2, global_batch=4)
    loss = method(batch_of(method))["answer"]
    alone = {**batch_of(method), "video": batch_of(method)["video"][:1], "chat": batch_of(method)["chat"][:1]}
    assert loss.isfinite() and method(alone)["answer"].isfinite()


def test_recompute_reaches_the_layers_of_the_language_model() -> None:
    """The same gradients, with the forward pass of each layer of encoder and language model run twice."""
    method, runs, found = chat(), [], []
    batch = batch_of(method)
    for layer in method.model.llm.base_model.model.model.layers:
        layer.self_attn.register_forward_hook(lambda *_: runs.append(1))
    for method.recompute in (False, True):
        method.zero_grad()
        method.configure_model()
        method(batch)["answer"].backward()
        found.append({name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None})
    assert len(runs) == 2 + 4  # of two layers
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_the_qformer_never_reads_the_answer() -> None:
    rows = chat().row_encoder
    asked = [rows.row([("where does it move ?", answer, "look")], None)["reads"].tolist() for answer in ("left", "up")]
    assert asked[0] == asked[1] and len(asked[0]) == 8  # the instruction, the question, start and end


def test_answers_are_exact_where_greedy_generation_writes_them() -> None:
    method = chat().eval()
    batch = batch_of(method, turns=1)
    with torch.no_grad():
        logits = method.model.logits(
            chat_of := method.chat_batch(batch["chat"]), method.visual_tokens(batch["video"], batch["chat"])
        )
    for row, scores, learnt in zip(batch["chat"], logits, chat_of.labels, strict=True):
        places = (learnt != -100).nonzero()[:, 0]
        row["ids"][places], row["labels"][places] = 0, -100
        first = int(places[0])
        row["ids"][first] = row["labels"][first] = int(scores[first - 1].argmax())
    made = method.predict(batch)
    assert made["exact"].tolist() == [1.0] * 4 and made["loss"].shape == (4,)
    batch["chat"][1]["labels"][first] = batch["chat"][1]["ids"][first] = (int(batch["chat"][1]["ids"][first]) + 1) % 60
    assert method.predict(batch)["exact"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert method(batch)["exact"].item() == 0.75


def test_what_the_limit_cuts_is_counted_and_what_it_leaves_nothing_of_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    method = chat(limit=16)
    batch = batch_of(method)
    cut = [int(row["cut"]) for row in batch["chat"]]
    assert min(cut) > 0 and all(len(row["ids"]) == 16 + 5 for row in batch["chat"])
    assert method(batch)["cut"].item() == sum(cut) / 4 and sum(method(batch).values()) > 0
    with caplog.at_level(logging.WARNING):
        method.on_host(batch)
    assert method.conversations_cut == 4 and caplog.text.count("beyond the limit") == 1
    with pytest.raises(ValueError, match="raise the limit"):
        method.row_encoder.row([("where " * 20, "left", "")], None)
    with pytest.raises(ValueError, match="context is 128"):
        chat(limit=None).row_encoder.row([("what " * 200, "red", "")], None)


def test_times_of_frames_and_images_are_told_and_tags_follow_the_medium() -> None:
    rows = ChatRows(Language({}, tokenizer=SHAPES), "vicuna", 1, times=True)
    film = rows.row([("where ?", "left", "")], None, seconds=[0.0, 1.26])
    still = rows.row([("where ?", "left", "")], None, image=True)
    assert len(film["ids"]) == len(still["ids"]) + 10  # The video contains 2 frames sampled at 0.0, 1.3 seconds.
    shown = Shown([], (8, 8), False)
    blank = rows.blank(shown)
    assert len(blank["slots"]) == 1 and not (blank["labels"] != -100).any()
    with pytest.raises(ValueError, match="neither a conversation nor a text"):
        rows(ShapeSample(), shown, None)


def test_the_words_of_shapes_are_known_beside_every_mark() -> None:
    """A caption's last word touches the mark that closes it."""
    rows = ChatRows(
        Language({}, tokenizer=SHAPES), "vicuna", 1, prompts=["<Video> <VideoHere> </Video> ###Assistant: "]
    )
    row = rows.row([], "a red circle moves left")
    written = rows.tokenizer.convert_ids_to_tokens(row["ids"][row["labels"] != -100].tolist())
    assert written == ["a", "red", "circle", "moves", "left", "###"]
    talk = rows.row([("where does it move ?", "left", "look at the video")] * 2, None)
    assert rows.tokenizer.unk_token_id not in talk["ids"]


class ShapeSample:
    """A sample without texts."""

    chat = text = None


def test_a_checkpoint_leaves_the_frozen_language_model_out_and_stands_on_it() -> None:
    method = chat()
    state = method.state_dict()
    frozen = {name for name, p in method.named_parameters() if not p.requires_grad and ".llm." in name}
    assert frozen and not frozen & state.keys() and any("lora_A" in name for name in state)
    same = chat()
    same.load_state_dict(state)  # strict
    torch.testing.assert_close(same(batch_of(same))["answer"], method(batch_of(method))["answer"])
    with pytest.raises(ValueError, match="another language model"):
        chat(seed=5).load_state_dict(state)
    with pytest.raises(RuntimeError, match="projector"):
        same.load_state_dict({name: tensor for name, tensor in state.items() if "projector" not in name})
    whole = chat(trained=["."], lora=None)
    assert all(name in whole.state_dict() for name, _ in whole.named_parameters())
    plain = chat(lora=None)  # an earlier stage of the same language model, and a later one with LoRA
    report = models.load_weights(chat(), plain.state_dict())
    assert all("lora_" in name for name in report.missing)


def test_stages_follow_each_other_and_gaps_beyond_the_allowed_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(2)
    encoder = VideoViT(12, 2, 2, 24, patch=8, tubelet=1, frames=2, size=16, norm=False)
    former = QFormer(16, 2, 2, 24, 12, vocabulary=64, context=40, dropout=0.0, head=True)
    first = Align(encoder, former, reader(), queries=3, features=8)
    torch.save({"state_dict": first.state_dict()}, tmp_path / "one.ckpt")
    lacks = ["extra_queries", "projector.*"]
    extra = ["*video_proj*", "*text_proj*", "*match_head*", "*temperature", "*frame_embed", "*qformer.head*"]
    second = chat(lora=None, weights=str(tmp_path / "one.ckpt"), missing=lacks, unused=extra)
    second.setup("fit")
    assert torch.equal(second.model.queries, first.model.queries)
    torch.save({"state_dict": second.state_dict()}, tmp_path / "two.ckpt")
    both = [str(tmp_path / "one.ckpt"), str(tmp_path / "two.ckpt")]
    third = chat(weights=both, missing=["llm.*lora_*"], unused=extra)
    third.setup("fit")
    assert torch.equal(third.model.projector.weight, second.model.projector.weight)
    with pytest.raises(ValueError, match=r"lacks llm\..*lora_A"):
        chat(weights=both, missing=[], unused=extra).setup("fit")
    with pytest.raises(ValueError, match="has, and the model does not"):
        chat(weights=both, missing=["llm.*"], unused=[]).setup("fit")


def test_a_language_model_of_another_width_takes_all_but_its_projector(tmp_path: Path) -> None:
    torch.save({"state_dict": chat(lora=None, trained=["."]).state_dict()}, tmp_path / "narrow.ckpt")
    options = {"weights": str(tmp_path / "narrow.ckpt"), "missing": ["projector.*", "llm.*lora_*"], "unused": []}
    language = Language({**LLAMA, "hidden_size": 32}, random=3, tokenizer=SHAPES, lora=LORA)
    with pytest.raises(ValueError, match="projector"):
        chat(language=language, **options).setup("fit")
    wide = chat(language=language, skip=["projector.*", "llm.*"], **options)
    before = wide.model.projector.weight.clone()
    wide.setup("fit")
    saved = torch.load(tmp_path / "narrow.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(wide.model.extra_queries, saved["model.extra_queries"]) and before.shape == (32, 16)
    assert torch.equal(wide.model.projector.weight, before)


def test_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either weights"):
        Language(LLAMA).build()
    Language(LLAMA, random=0).build().save_pretrained(tmp_path / "llm")
    with pytest.raises(ValueError, match="has hidden_size 24, and the recipe says 32"):
        Language({**LLAMA, "hidden_size": 32}, weights=str(tmp_path / "llm")).build()
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        Language(LLAMA, random=0, tokenizer=str(tmp_path / "none")).load_tokenizer()
    with pytest.raises(ValueError, match="no token <none>"):
        Language(LLAMA, random=0, tokenizer=SHAPES, pad="<none>").load_tokenizer()
    tied = Language({**LLAMA, "tie_word_embeddings": True}, random=0).build()
    assert len(list(tied.named_parameters(remove_duplicate=False))) == len(list(tied.parameters()))
    former = QFormer(16, 2, 2, 24, 12, text=False)
    with pytest.raises(ValueError, match="no text branch"):
        encoder = VideoViT(12, 2, 2, 24, patch=8, tubelet=1, frames=2, size=16)
        Converse(encoder, former, Language(LLAMA, random=0, tokenizer=SHAPES), reader=reader())


def packs(world: int, rank: int, accumulate: int, steps: range, seed: int = 4) -> dict[int, list[list[int]]]:
    source = ShapeQuestions(50, size=32, length=8)
    counts = torch.randint(5, 200, (50,), generator=torch.Generator().manual_seed(0)).numpy()
    made = PackedBatches(
        source, source.order(seed, 1), None, seed, GlobalBatch(rank, world, 3, accumulate), None, counts, 4
    )
    return {step: [made.numbers(step * accumulate + part) for part in range(accumulate)] for step in steps}


def test_packs_depend_on_the_seed_and_the_block_only_and_are_balanced() -> None:
    """Of one process with 4 micro-batches a step, and of two with 2: the same packs at every step, from any step on."""
    single = packs(1, 0, 4, range(8))
    ranks = [packs(2, rank, 2, range(3, 8)) for rank in range(2)]
    for step in range(3, 8):
        together = [ranks[rank][step][part] for part in range(2) for rank in range(2)]
        assert together == single[step]
    numbers = sorted(n for step in range(4) for pack in single[step] for n in pack)
    assert numbers == list(range(48))  # a block has its samples once each
    source = ShapeQuestions(50, size=32, length=8)
    counts = torch.randint(5, 200, (50,), generator=torch.Generator().manual_seed(0)).numpy()
    order = source.order(4, 1)
    totals = [sum(counts[order(n)[1]] for n in pack) for step in range(4) for pack in single[step]]
    plain = [sum(counts[order(n)[1]] for n in range(i, i + 3)) for i in range(0, 48, 3)]
    assert max(totals) - min(totals) < 0.5 * (max(plain) - min(plain))
    assert packs(1, 0, 4, range(1), seed=5) != packs(1, 0, 4, range(1))


def test_counts_of_tokens_are_the_rows_lengths_and_are_kept(tmp_path: Path) -> None:
    method, source, file = chat(), ShapeQuestions(8, turns=2, size=32, length=8), str(tmp_path / "counts.npz")

    class Clip:
        frames, size = 2, 16

    counts = token_counts(source, method.row_encoder, Clip, file)
    rows: list[Row] = [method.row_encoder(source[i], Shown([0.0] * 2, (16, 16), False), None) for i in range(8)]
    assert counts.tolist() == [len(row["ids"]) for row in rows]
    assert token_counts(source, None, Clip, file).tolist() == counts.tolist()
    with pytest.raises(ValueError, match="of other data"):
        token_counts(ShapeQuestions(9, size=32, length=8), None, Clip, file)


@pytest.mark.slow
def test_a_run_of_packs_mixes_sources_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """Videos and images take turns, in steps of one kind; a resumed run ends as an uninterrupted one."""
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    entries = [{"image": f"{i}.png", "QA": [{"q": "what colour is it ?", "a": "red"}]} for i in range(3)]
    (tmp_path / "images.json").write_text(json.dumps(entries))
    shapes = {"class_path": "ShapeQuestions", "init_args": {"samples": 10, "size": 32, "turns": 2}}
    images = {
        "class_path": "Instructions",
        "init_args": {"file": str(tmp_path / "images.json"), "media": str(tmp_path)},
    }
    mixture = {"class_path": "Mixture", "init_args": {"sources": [shapes, images], "weights": [1, 1], "strip": 4}}
    data = {"train": mixture, "global_batch": 4, "micro_batch": 2, "pack_steps": 2, "frames": 4}
    setting = json.dumps({"data": {"init_args": data}, "model": {"init_args": {"packed": True, "images": True}}})
    options = [*RECIPE, "-c", setting, "--model.init_args.encoder.init_args.tubelet=1"]  # images are one frame deep
    import tests.helpers.runs as runs

    short = [option for option in runs.SMALL if "samples=10" not in option and "global_batch" not in option]
    small, runs.SMALL = runs.SMALL, short
    try:
        steps = ["--trainer.max_steps=4", "--data.init_args.frames=4", "--trainer.val_check_interval=4"]
        every = ["--trainer.callbacks.init_args.every_n_train_steps=2"]
        one = fit(tmp_path / "one", options, *steps, *every)
        again = fit(tmp_path / "two", options, *steps, f"--ckpt_path={one}/checkpoints/step=0000002.ckpt")
    finally:
        runs.SMALL = small
    a, b = (torch.load(run / "checkpoints/step=0000004.ckpt", weights_only=True)["state_dict"] for run in (one, again))
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, msg=name)
