"""Exported chat models and models of tiles talk: the same answers as the trained model, and errors that say why not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.decoding.reader import PyAV
from models.chat.language_model import language_model
from models.chat.qformer import QFormer
from models.chat.templates import Conversation, Turn
from models.positions import resize_table
from models.tokenizers import BertTokenizer
from models.vit import VideoViT
from pretrain.chat.answerer import Request, Writing
from pretrain.chat.assistant import Assistant
from pretrain.chat.exported import is_exported
from pretrain.chat.load import load_assistant, set_frames
from pretrain.chat.media import read_clip
from pretrain.export.chat import save_processor, to_transformers
from pretrain.export.processors import Evaluation
from pretrain.learning.language import Language, LanguageLoRA
from pretrain.objectives import Converse
from tests.helpers.paths import ROOT
from tests.helpers.videos import make
from tools.chat import main as chat

SHAPES = str(ROOT / "recipes/data/shapes_chat")
LLAMA = {
    **{"model_type": "llama", "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "max_position_embeddings": 256},
}
FEW = Writing(most=8)


def converse(folder: Path, template: str = "vicuna", reads: bool = True, **options: object) -> Converse:
    """A model whose answers depend on what it is shown, on the language model in a folder."""
    torch.manual_seed(0)
    if not folder.exists():
        llm = language_model(LLAMA)
        for parameter in llm.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.4)
        llm.save_pretrained(folder)
    encoder = VideoViT(12, 2, 2, 24, patch=8, tubelet=1, frames=4, size=16, norm=False, made_for=(2, 2, 2))
    former = QFormer(16, 2, 2, 24, 12, dropout=0.0, **({"vocabulary": 64, "context": 40} if reads else {"text": False}))
    language = Language(LLAMA, str(folder), tokenizer=SHAPES, lora=LanguageLoRA(4, 8, 0.0, ["q_proj", "lm_head"]))
    reader = BertTokenizer(f"{SHAPES}/bert.txt", 40) if reads else None
    made = Converse(encoder, former, language, template, reader, 3, 2, global_batch=4, **options).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if (
                parameter.ndim > 1
                and ".base_layer." not in name
                and "embed_tokens" not in name
                and parameter.requires_grad
            ):
                parameter.normal_(std=0.4)
    return made


def assistant_of(method: Converse, tiles: int | None = None) -> Assistant:
    parts = method.tokenizer, method.template, method.row_encoder.reader
    return Assistant(method.model, *parts, 4, *method.normalize.values, tiles=tiles)


def request(seed: int = 0, media: tuple = ("video",), shape: tuple[int, int] = (16, 16)) -> Request:
    generator = torch.Generator().manual_seed(seed)
    clips = tuple(
        torch.randint(256, (3, 1 if m == "image" else 4, *shape), generator=generator, dtype=torch.uint8) for m in media
    )
    return Request(Conversation((Turn("what colour is it ?", media=media),), "look"), clips)


REQUESTS = [request(), request(1), request(2, ("video", "image")), request(3, ())]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Converse]:
    folder = tmp_path_factory.mktemp("exported")
    method = converse(folder / "llm")
    to_transformers(method, folder / "out")
    save_processor(method, folder / "out", Evaluation(4, 1, 16, "sparse", True, True))
    return folder, method


def test_an_exported_folder_answers_as_the_trained_model(exported: tuple[Path, Converse], tmp_path: Path) -> None:
    folder, method = exported
    assert is_exported(str(folder / "out")) and not is_exported(str(folder)) and not is_exported(str(folder / "llm"))
    ours, theirs = assistant_of(method), load_assistant(str(folder / "out"))
    answers = ours.answer(REQUESTS, FEW)
    assert theirs.answer(REQUESTS, FEW) == answers and len(set(answers)) > 1
    options = ["red", "left right"]
    assert theirs.likelihoods(REQUESTS[0], options) == pytest.approx(ours.likelihoods(REQUESTS[0], options), abs=1e-4)
    assert (theirs.frames, theirs.size, theirs.template) == (4, 16, method.template)
    assert load_assistant(str(folder / "out"), frames=8).answer([request(4, ())], FEW)  # positions are made longer
    film = make(tmp_path / "film.mp4", frames=12)
    assert chat([film, "--model", str(folder / "out"), "--question", "what colour is it ?", "--most", "3"]) == 0


def test_positions_are_resized_to_other_numbers_of_frames() -> None:
    """Learnt ones as fixed ones, which are of the grid that they were made for."""
    for learnt in (False, True):
        encoder = VideoViT(12, 1, 2, 24, patch=8, tubelet=1, frames=4, size=16, learn_positions=learnt)
        before = encoder.positions.table.detach().clone()
        set_frames(encoder, 8)
        table = encoder.positions.table.detach()
        assert encoder(torch.zeros(1, 3, 8, 16, 16)).shape == (1, 32, 12) and (encoder.frames, encoder.grid[0]) == (
            8,
            8,
        )
        torch.testing.assert_close(table, resize_table(before, (4, 2, 2), (8, 2, 2)))


def test_adapters_in_pefts_layout_stand_on_the_language_model_that_they_name(exported: tuple[Path, Converse]) -> None:
    folder, method = exported
    assert load_assistant(str(folder / "out/lora")).answer(REQUESTS, FEW) == assistant_of(method).answer(REQUESTS, FEW)
    file = folder / "out/lora/adapter_config.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"base_model_name_or_path": "vicuna"}))
    try:
        with pytest.raises(ValueError, match="stand on the language model 'vicuna'"):
            load_assistant(str(folder / "out/lora"))
    finally:
        file.write_text(before)


def test_a_changed_folder_is_refused(exported: tuple[Path, Converse]) -> None:
    folder, _ = exported
    template = folder / "out/chat_template.jinja"
    before = template.read_text()
    template.write_text("{{ messages }}")
    try:
        with pytest.raises(ValueError, match="none of ours"):
            load_assistant(str(folder / "out"))
    finally:
        template.write_text(before)
    with pytest.raises(ValueError, match="does not see frames in tiles"):
        load_assistant(str(folder / "out"), tiles=4)


def test_frames_in_tiles_are_shown_whole_and_batches_change_no_answer(
    exported: tuple[Path, Converse], tmp_path: Path
) -> None:
    folder, _ = exported
    model = assistant_of(converse(folder / "llm", "mistral", tiles=True), tiles=6)
    wide, square, image = request(0, shape=(32, 48)), request(1), request(2, ("image", "video"), (16, 32))
    alone = [model.answer([each], FEW)[0] for each in (wide, square, image)]
    assert model.answer([wide, square, image], FEW) == alone and len(set(alone)) > 1
    _, visual = model._prepare([(model.template.segments(wide.conversation), wide)], 0)
    assert visual[0].shape[0] == 7 * 5  # six tiles and the whole, of five tokens each
    corner = request(0, shape=(32, 48))
    corner.clips[0][..., -8:, -8:] = 0
    options = ["red", "left right"]
    assert model.likelihoods(wide, options) != pytest.approx(model.likelihoods(corner, options), abs=1e-4)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8)).save(tmp_path / "wide.png")
    clip = read_clip(str(tmp_path / "wide.png"), "wide", PyAV(), 4, 16, tiles=6)
    assert clip.pixels.shape == (3, 1, 16, 32)  # of the grids of at most six tiles, the closest to 40 : 90
    assert read_clip(str(tmp_path / "wide.png"), "wide", PyAV(), 4, 16).pixels.shape == (3, 1, 16, 16)
