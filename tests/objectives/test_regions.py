"""Region tokens: means under a mask, in the places of `<obj1>`, from the data to the loss; and that they are learnt."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.loading.text_rows import Shown
from datamodules.sources.region_questions import RegionQuestions
from datamodules.sources.source import Sample
from models.chat.qformer import QFormer
from models.chat.regions import coverage, region_means, region_places
from models.chat.templates import Conversation, Role, Turn, Vicuna
from models.vit import VideoViT
from pretrain.chat.answerer import Request, Writing
from pretrain.chat.assistant import Assistant
from pretrain.learning.language import Language
from pretrain.objectives import Converse
from tests.helpers.paths import ROOT
from tests.helpers.runs import fit

SHAPES = str(ROOT / "recipes/data/shapes_chat")
LLAMA = {
    **{"model_type": "llama", "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "max_position_embeddings": 128},
}


def method(**options: object) -> Converse:
    torch.manual_seed(1)
    encoder = VideoViT(12, 2, 2, 24, patch=8, tubelet=2, frames=4, size=32, norm=False)
    former = QFormer(16, 2, 2, 24, 12, dropout=0.0, text=False)
    language = Language(LLAMA, random=0, tokenizer=SHAPES)
    how = {"template": "vicuna", "queries": 3, "extra_queries": 2, "global_batch": 2, "regions": True, **options}
    return Converse(encoder, former, language, **how)


def batch_of(made: Converse, source: RegionQuestions) -> dict:
    """Two samples as the loading processes make them."""
    rows, clips = [], []
    for sample in (source[0], source[1]):
        indices = np.arange(4) * 4
        clips.append(torch.from_numpy(sample.content.frames(indices)).permute(3, 0, 1, 2))
        shown = Shown(sample.content.seconds(indices).tolist(), (32, 32), False)
        rows.append(made.row_encoder(sample, shown, None))
    return {"video": torch.stack(clips), "name": ["a", "b"], "chat": rows}


def request_of(sample: Sample, clip: torch.Tensor, stride: int) -> Request:
    """A sample's question as an assistant gets it."""
    (turn,), seconds = sample.chat, [i * stride / sample.content.fps for i in range(4)]
    asked = Conversation((Turn(turn.question, media=("video",)),), turn.instruction)
    return Request(asked, (clip,), regions=(torch.from_numpy(sample.regions(seconds)).float(),))


def test_a_region_is_the_mean_of_the_tokens_under_its_mask() -> None:
    masks = torch.zeros(2, 4, 16, 16, dtype=torch.bool)
    masks[0, :2, :8, :8] = True  # the first token's cube
    masks[1, 2:, 8:, :] = True  # two tokens of the second time
    covered = coverage(masks, (2, 2, 2))
    assert covered.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]]
    tokens = torch.randn(1, 8, 5)
    means = region_means(tokens, covered[None])
    torch.testing.assert_close(means[0], torch.stack([tokens[0, 0], tokens[0, 6:].mean(0)]))
    half = coverage(masks[:1] & (torch.arange(16) < 4), (2, 2, 2))
    assert half[0, 0] == 0.5
    torch.testing.assert_close(region_means(tokens, half[None])[0, 0], tokens[0, 0])
    assert not region_means(tokens, torch.zeros(1, 1, 8)).any(), "of nothing it is 0"


def test_places_stand_where_the_question_names_regions() -> None:
    turns = Turn("is <obj2> left of <obj1> ?", "yes <obj1>", ("video",))
    segments, order = region_places(Vicuna().segments(Conversation((turns,))))
    assert order == [-1, 1, 0], "an answer's words stay words"
    text = "".join("|" if segment.role is Role.VISUAL else segment.text for segment in segments)
    assert "is | left of | ?" in text and "yes <obj1>" in text


def test_a_question_about_a_region_goes_from_the_data_to_the_loss() -> None:
    source = RegionQuestions(4, objects=3, length=16, size=32)
    made = method()
    batch = batch_of(made, source)
    row = batch["chat"][0]
    assert row["order"].tolist() == [-1, 0] and row["regions"].shape == (1, 2 * 4 * 4) and len(row["slots"]) == 5 + 1
    loss = made(batch)["answer"]
    loss.backward()
    assert made.model.region_projector.weight.grad.abs().sum() > 0
    elsewhere = [{**row, "regions": np.roll(row["regions"], 5, axis=1)} for row in batch["chat"]]
    assert (made({**batch, "chat": elsewhere})["answer"] - loss).abs() > 1e-6, "the mask decides"
    plain = method(regions=False)
    assert plain.model.region_projector is None
    made.packed = True
    torch.testing.assert_close(made(batch)["answer"], loss)
    example = {**batch, "chat": [made.row_encoder.example((32, 32))] * 2}
    assert made(example)["answer"].isfinite(), "a plan's rows have no regions"


def test_an_assistant_shows_the_language_model_what_training_did(monkeypatch: pytest.MonkeyPatch) -> None:
    made = method().eval()
    source, seen = RegionQuestions(4, objects=3, length=16, size=32), []
    batch = batch_of(made, source)
    embed = made.model.embed
    monkeypatch.setattr(made.model, "embed", lambda *given: seen.append(embed(*given)) or seen[-1])
    made(batch)
    assistant = Assistant(made.model, made.tokenizer, made.template, frames=4)
    requests = [request_of(source[i], batch["video"][i], 4) for i in range(2)]
    assistant.answer(requests, Writing(most=2))
    trained, shown = seen[0], seen[1]
    length = shown.shape[1]
    assert length > 10 and trained.shape[1] > length, "training sees the answer too"
    torch.testing.assert_close(shown, trained[:, :length])
    answers = assistant.likelihoods(requests[0], ["red"]), assistant.likelihoods(requests[1], ["red"])
    assert answers[0] != pytest.approx(answers[1], abs=1e-6)


def test_a_region_that_is_not_there_is_named() -> None:
    made = method()
    with pytest.raises(ValueError, match="it names <obj2>, and has no such region"):
        made.row_encoder.row([("what is <obj2> ?", "red", "")], None, covered=np.zeros((1, 32), np.float32))
    with pytest.raises(ValueError, match="regions are of whole frames"):
        method(tiles=True)


@pytest.mark.slow
def test_colours_of_meant_shapes_are_learnt(tmp_path: Path) -> None:
    """Three shapes stand in each film: without the region, more than half of the answers would be wrong."""
    from pretrain.chat.load import load_assistant
    from pretrain.export.load_run import load_objective

    recipe = ["-c", str(ROOT / "recipes/videochat2_regions_tiny.yaml")]
    whole = ["max_steps=200", "val_check_interval=200", "log_every_n_steps=50"]
    data = ["global_batch=32", "frames=4", "size=64", "train.init_args.samples=8192", "val.init_args.samples=32"]
    run = fit(
        tmp_path, recipe, *(f"--trainer.{each}" for each in whole), *(f"--data.init_args.{each}" for each in data)
    )
    made, _ = load_objective(str(run))
    source = RegionQuestions(128, objects=3, size=64, seed=7)
    rows, clips = [], []
    for index in range(len(source)):
        sample, indices = source[index], np.arange(4) * 8
        clips.append(torch.from_numpy(sample.content.frames(indices)).permute(3, 0, 1, 2))
        shown = Shown(sample.content.seconds(indices).tolist(), (64, 64), False)
        rows.append(made.row_encoder(sample, shown, None))
    batch = {"video": torch.stack(clips), "name": [""] * len(rows), "chat": rows}
    right = made.predict(batch)["exact"].mean().item()
    blind = [{**row, "regions": np.zeros_like(row["regions"])} for row in rows]
    without = made.predict({**batch, "chat": blind})["exact"].mean().item()
    print(f"right with the region {right:.2f}, without {without:.2f}")
    assert right > 0.8 and right > without + 0.25
    assistant, through = load_assistant(str(run)), 0
    for index in range(32):
        request, turn = request_of(source[index], clips[index], 8), source[index].chat[0]
        through += assistant.answer([request], Writing(most=3))[0].strip() == turn.answer
    print(f"right by the assistant: {through} of 32")
    assert through >= 26
