"""A chat model's answers: no batch and no padding changes them, streams equal them, and where they end."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from models.chat.language_model import add_lora, language_model
from models.chat.templates import Conversation, Mistral, Turn, Vicuna, as_text
from models.chat.weight_layout import PackedLinear, lay_out, store_by_input
from pretrain.chat.answerer import Request, Writing
from pretrain.chat.assistant import Assistant
from pretrain.chat.stopping import Stops, end_tokens, shown, until_stop
from pretrain.chat.structured import grammar_of
from tests.helpers import chat

FEW = Writing(most=12)


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return chat.assistant()


def request(seed: int, words: str, media: tuple = ("video",), frames: int = 2) -> Request:
    generator = torch.Generator().manual_seed(seed)
    clips = tuple(
        torch.randint(256, (3, 1 if m == "image" else frames, 16, 16), generator=generator, dtype=torch.uint8)
        for m in media
    )
    return Request(Conversation((Turn(words, media=media, prefix="It:"),), "Look."), clips)


REQUESTS = [
    request(0, "What colour is it?"),
    request(1, "A far longer question, so that rows are padded: which way?"),
    request(2, "Both?", ("video", "image")),
    request(3, "Nothing is shown", ()),
    request(4, "Hm?"),
]


def test_answers_and_likelihoods_do_not_depend_on_the_batch_or_its_order(assistant: Assistant) -> None:
    alone = [assistant.answer([each], FEW)[0] for each in REQUESTS]
    assert assistant.answer(REQUESTS, FEW) == alone and len(set(alone)) > 3
    assert assistant.answer(REQUESTS[::-1], FEW) == alone[::-1]
    options = ["red", "a far longer option than the other", "blue"]
    together = assistant.likelihoods(REQUESTS[0], options)
    assert together == pytest.approx([assistant.likelihoods(REQUESTS[0], [o])[0] for o in options], abs=1e-5)
    other = assistant.likelihoods(request(9, "What colour is it?"), options)
    assert together != pytest.approx(other, abs=1e-4)  # the video counts


def test_questions_about_one_video_share_its_tokens(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder sees each video once, and the language model reads what the prompts begin with once."""
    words = ("What colour is it, and why?", "Which way?", "How many are there?")
    asked = [request(seed, text) for text in words for seed in (5, 6)]
    alone = [assistant.answer([each], FEW)[0] for each in asked]
    seen, read = [], []
    encode, first = assistant.model.encode, assistant.model.llm.model.layers[0]
    monkeypatch.setattr(assistant.model, "encode", lambda video: seen.append(len(video)) or encode(video))
    hook = first.register_forward_hook(lambda layer, inputs, output: read.append(output.shape[1]))
    assert assistant.answer(asked, FEW) == alone and len(set(alone)) > 3
    hook.remove()
    lengths = [len(assistant.tokenizer(as_text(assistant.template.segments(r.conversation))).input_ids) for r in asked]
    assert seen == [2] and read[0] < 0.6 * sum(lengths)


def test_a_question_is_read_once_for_all_of_its_options(assistant: Assistant) -> None:
    read: list[int] = []
    hook = assistant.model.llm.model.layers[0].register_forward_hook(lambda *layer: read.append(layer[2].shape[1]))
    options = ["red", "a far longer option than the other", "blue"]
    together = assistant.likelihoods(REQUESTS[1], options)
    assert together == pytest.approx([assistant.likelihoods(REQUESTS[1], [o])[0] for o in options], abs=1e-5)
    assert len(read) == 4 and read[0] < 0.6 * sum(read[1:])
    hook.remove()


def test_a_likelihood_is_the_mean_log_probability_of_the_options_tokens(assistant: Assistant) -> None:
    (found,) = assistant.likelihoods(REQUESTS[3], ["blue"])
    text = as_text(assistant.template.segments(REQUESTS[3].conversation))
    ids = assistant.tokenizer(f"<s>{text}blue", add_special_tokens=False, return_tensors="pt").input_ids
    count = len(assistant.tokenizer("blue", add_special_tokens=False).input_ids)
    logits = assistant.model.llm(ids).logits[0].log_softmax(-1)
    expected = logits[-count - 1 : -1].gather(1, ids[0, -count:, None]).mean().item()
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_stream_is_the_answer_in_pieces_and_its_reader_may_leave(assistant: Assistant) -> None:
    pieces: list[str] = []
    written = assistant.stream(REQUESTS[0], FEW, lambda piece: pieces.append(piece) or True)
    assert "".join(pieces) == written.text and len(pieces) > 1
    assert written.text.startswith(assistant.answer([REQUESTS[0]], FEW)[0].rstrip("\ufffd")[:3])
    left: list[str] = []
    stopped = assistant.stream(REQUESTS[0], replace(FEW, most=200), lambda piece: left.append(piece) or len(left) < 2)
    assert len(left) == 2 and stopped.tokens < 20 and not stopped.finished


def test_draws_follow_the_seed(assistant: Assistant) -> None:
    warm = replace(FEW, temperature=1.0, top_p=0.9)
    drawn = [assistant.answer(REQUESTS[:1], replace(warm, seed=seed))[0] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_where_an_answer_ends() -> None:
    words = chat.tokenizer()
    assert end_tokens(words, ("###",)) == [2] and end_tokens(words, ("</s>", "<pad>")) == [2, 3]
    assert until_stop(" A red one. ### Human:", ("###",)) == "A red one."
    assert shown("It is red ##", ("###",)) == "It is red " and shown("It is red ### H", ("###",)) == "It is red "
    assert shown("caf\ufffd", ("###",)) == "caf"
    rows = [words(text, add_special_tokens=False).input_ids for text in ("one two ###", "one two ##x")]
    length = min(map(len, rows))
    assert Stops(words, ("###",))(torch.tensor([row[:length] for row in rows]), None).tolist() == [True, False]


def test_a_text_stop_ends_generation(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(FEW, most=40)
    text = assistant.answer(REQUESTS[:1], long)[0]
    stop = text[5:7]
    monkeypatch.setattr(assistant, "template", replace(Mistral(), stops=(stop,)))
    assert assistant.answer(REQUESTS[:2], long)[0] == until_stop(text, (stop,))
    written = assistant.stream(REQUESTS[0], long, lambda piece: True)
    assert written.text == until_stop(text, (stop,)) and written.tokens < 40 and written.finished


def test_what_is_refused(assistant: Assistant) -> None:
    short = chat.assistant(context=100)
    with pytest.raises(ValueError, match="exceed the language model's context of 100"):
        short.answer([request(0, "x" * 10)], Writing(most=60))
    with pytest.raises(ValueError, match="context is 100"):
        short.answer([request(0, "x" * 100)], FEW)
    with pytest.raises(ValueError, match="places for 1 media, and 0 clips"):
        Request(Conversation((Turn("a", media=("video",)),)))
    with pytest.raises(ValueError, match="has its answer already"):
        Request(Conversation((Turn("a", "b"),)))
    with pytest.raises(ValueError, match="top_p"):
        Writing(top_p=0.0)
    with pytest.raises(ValueError, match="no token"):
        assistant.likelihoods(REQUESTS[0], [""])


def test_the_identity_follows_the_weights_and_the_template() -> None:
    first, same, other = chat.assistant(), chat.assistant(), chat.assistant(seed=1)
    assert first.identity() == same.identity() != other.identity()
    assert chat.assistant(Vicuna()).identity() != first.identity()


def test_an_assistants_weights_are_laid_out_for_few_rows_and_mean_the_same(assistant: Assistant) -> None:
    llm = assistant.model.llm
    layers = {name: layer for name, layer in llm.named_modules() if isinstance(layer, nn.Linear)}
    output = layers.pop("lm_head")
    assert isinstance(output, PackedLinear)
    assert len(layers) > 5 and all(layer.weight.stride()[0] == 1 for layer in layers.values())
    assert llm.get_input_embeddings().weight.is_contiguous()
    by_output = chat.assistant().model.llm
    plain = nn.Linear(output.in_features, output.out_features, bias=False)
    plain.load_state_dict(output.state_dict())
    by_output.set_output_embeddings(plain)
    for layer in by_output.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.contiguous()
    ids = torch.arange(5, 15)[None]
    assert [name for name, _ in llm.named_parameters()] == [name for name, _ in by_output.named_parameters()]
    with torch.no_grad():
        torch.testing.assert_close(llm(ids).logits, by_output(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_the_output_layer_of_a_model_with_lora_is_packed_too(tied: bool) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}
    config = {"model_type": "llama", **sizes, "num_attention_heads": 2, "tie_word_embeddings": tied}
    llm = language_model(config)
    llm = llm if tied else add_lora(llm, 4, 8, 0.0, ["q_proj", "lm_head"])
    ids, names = torch.arange(5, 15)[None], [name for name, _ in llm.named_parameters()]
    with torch.no_grad():
        expected = llm.eval()(ids).logits
        lay_out(llm)
        assert any(isinstance(layer, PackedLinear) for layer in llm.modules())
        torch.testing.assert_close(llm(ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in llm.named_parameters()] == names


def test_a_weight_that_an_embedding_shares_stays_as_it_is() -> None:
    embedding, output, other = nn.Embedding(7, 3), nn.Linear(3, 7), nn.Linear(3, 7).bfloat16()
    output.weight = embedding.weight
    store_by_input(nn.ModuleList([embedding, output, other]))
    assert embedding.weight.is_contiguous() and other.weight.is_contiguous()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_keeps_to_a_schema(assistant: Assistant, temperature: float) -> None:
    colours = {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 2, "maxItems": 3}
    schema = {"type": "object", "properties": {"colours": colours}, "required": ["colours"]}
    writing = Writing(most=80, temperature=temperature, schema=json.dumps(schema | {"additionalProperties": False}))
    pieces: list[str] = []
    written = assistant.stream(REQUESTS[0], writing, lambda piece: pieces.append(piece) or True)
    found = json.loads("".join(pieces))
    assert list(found) == ["colours"] and 2 <= len(found["colours"]) <= 3 and {*found["colours"]} <= {"red", "blue"}
    assert written.finished and written.text == "".join(pieces)


def test_a_schema_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="this JSON schema cannot be kept to"):
        grammar_of('{"type": "no such type"}')
