"""Chat models out: the same logits and answers where the project is not installed; layouts; official names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import models
from models.chat.conversation import collate
from models.chat.templates import ChatTemplate, Conversation, Mistral, Phi3, Turn, Vicuna, as_text
from models.convert.allowed_gaps import require_loaded
from pretrain.cli import main
from pretrain.export.chat_layouts import layout
from pretrain.export.load_run import load_objective
from pretrain.learning.chat_rows import tokens_of
from tests.helpers.paths import ROOT
from tests.helpers.runs import fit
from tests.helpers.videos import make

VIDEO, IMAGE = ("video",), ("image",)
TALKS = {
    "one": Conversation((Turn("What is it?", None, VIDEO),)),
    "system": Conversation((Turn("What is it?", None, VIDEO),), "Look."),
    "later": Conversation(
        (Turn("What?", "A dog.", VIDEO), Turn("And here?", "A cat.", IMAGE), Turn("Sure?", None)), "Look."
    ),
    "text": Conversation((Turn("Hello?", "Yes.", ()), Turn("Who?", None)), "Be kind."),
    "caption": Conversation((Turn("", None, VIDEO),)),
}
RECIPE = ["-c", str(ROOT / "recipes/videochat2_instruct_tiny.yaml")]
CLEAN = """
import json, sys
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
assert not any(name in sys.modules for name in ("models", "pretrain", "lightning"))
folder, film = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
words = [{"type": "video"}, {"type": "text", "text": "what colour is it ?"}]
messages = [{"role": "system", "content": "look"}, {"role": "user", "content": words}]
text = processor.apply_chat_template(messages, add_generation_prompt=True)
inputs = processor(text, videos=[film], instruction="look what colour is it ?")
with torch.no_grad():
    logits = model(**inputs).logits[0, -1]
new = model.generate(**inputs, max_new_tokens=4, do_sample=False)
print(json.dumps({"text": text, "logits": logits.tolist(), "answer": new[0].tolist()}))
"""


def messages(talk: Conversation) -> list[dict]:
    made = [{"role": "system", "content": talk.instruction}] if talk.instruction else []
    for turn in talk.turns:
        words = [{"type": medium} for medium in turn.media] + [{"type": "text", "text": turn.question}]
        made.append({"role": "user", "content": words if turn.media else turn.question})
        if turn.answer is not None:
            made.append({"role": "assistant", "content": turn.answer})
    return made


@pytest.mark.parametrize("talk", TALKS.values(), ids=list(TALKS))
@pytest.mark.parametrize("name, template", [("vicuna", Vicuna()), ("mistral", Mistral()), ("phi3", Phi3())])
def test_layouts_are_those_of_training(name: str, template: ChatTemplate, talk: Conversation) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "recipes/data/shapes_chat")
    found = tokenizer.apply_chat_template(messages(talk), chat_template=layout(name, None), tokenize=False)
    assert found == as_text(template.segments(talk), "<visual>")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "lm_head"]}
    fragment = {"model": {"init_args": {"trained": ["encoder", "qformer", "queries", "projector", "lora_"]}}}
    fragment["model"]["init_args"]["language"] = {"lora": lora}
    return fit(folder, [*RECIPE, "-c", json.dumps(fragment)], "--trainer.max_steps=2", "--trainer.val_check_interval=2")


@pytest.mark.slow
def test_official_names_come_back_the_same(run: Path, tmp_path: Path) -> None:
    main(["export", "--ckpt", str(run), "--to", "official", "--out", str(tmp_path / "official")])
    saved = torch.load(tmp_path / "official/checkpoint.pth", weights_only=True)["model"]
    assert any(name.startswith("llama_model.base_model.model.") and "lora_A" in name for name in saved)
    assert not any(name.startswith("llama_model.") and "lora_" not in name for name in saved)
    model, _ = load_objective(str(run))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    require_loaded(models.load_weights(model, tmp_path / "official/checkpoint.pth"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.slow
def test_the_exported_folder_has_the_logits_lora_and_processor(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["export", "--ckpt", str(run), "--to", "transformers", "--out", str(out)])  # compares the logits
    assert (out / "lora/adapter_config.json").is_file() and (out / "processing_videochat.py").is_file()
    assert "AutoModelForImageTextToText" in (out / "README.md").read_text()


@pytest.mark.slow
def test_a_clean_process_gives_the_same_logits_and_answer(run: Path, tmp_path: Path) -> None:
    out, film = tmp_path / "out", make(tmp_path / "film.mp4", 40, fps=8)
    main(["export", "--ckpt", str(run), "--to", "transformers", "--out", str(out)])
    command = [sys.executable, "-c", CLEAN, str(out), film]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])

    model, _ = load_objective(str(run))
    talk = Conversation((Turn("what colour is it ?", None, VIDEO),), "look")
    assert found["text"] == as_text(model.template.segments(talk), "<visual>")
    from datamodules.clips.eval_views import Squares
    from datamodules.clips.sampling import dense_centre
    from datamodules.decoding.reader import PyAV

    with PyAV().open(film) as video:
        frames = video.frames(dense_centre(len(video), 8, 8))
    clip = torch.from_numpy(Squares()(frames, 32, 0, 1).copy()).permute(3, 0, 1, 2)[None]
    rows = model.row_encoder
    row = rows._row(model.template.segments(talk), model.template.qformer_text(talk), (32, 32))
    batch, tokenizer = collate([tokens_of(row)], model.tokenizer.pad_token_id), model.tokenizer
    with torch.no_grad():
        visual = model.visual_tokens(clip, [row])
        logits = model.model.logits(batch, visual)[0, -1]
        answer = model.model.generate(batch, visual, tokenizer.pad_token_id, max_new_tokens=4, do_sample=False)
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, atol=2e-4, rtol=1e-3)
    assert found["answer"] == answer[0].tolist()
