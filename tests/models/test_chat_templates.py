"""Conversations: layouts, which tokens are learnt, places of media, limits, and what is refused."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from models.chat.conversation import IGNORE_INDEX, Tokens, collate, tokenize
from models.chat.templates import (
    Conversation,
    Mistral,
    Phi3,
    Role,
    Turn,
    Vicuna,
    as_text,
    caption_segments,
)
from models.chat.tokenizer_template import TokenizerTemplate

TALK = Conversation(
    (
        Turn("What colour is it?", "A red one.", ("video",), "The video contains 2 frames sampled at 0, 1 seconds."),
        Turn("And this?", "It is blue.", ("image",)),
        Turn("Sure?", "Yes."),
    ),
    "Look closely.",
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs of a few sentences, with a chat template, and a pad token that is not the end token."""
    special = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(
        ["###Human: ###Assistant: A red one. It is blue. What colour is it? [INST] [/INST]"], trainer
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, additional_special_tokens=special[4:], **names)
    made.chat_template = CHATML
    return made


def learnt(tokens: Tokens, tokenizer: PreTrainedTokenizerFast) -> str:
    return tokenizer.decode([label for label in tokens.labels if label != IGNORE_INDEX])


@pytest.mark.parametrize(
    ("template", "end"), [(Vicuna(), "###"), (Mistral(), "</s>"), (Phi3(), "<|end|>"), ("own", "<|im_end|>")]
)
def test_answers_and_their_ends_are_learnt_and_nothing_else(
    tokenizer: PreTrainedTokenizerFast, template: Vicuna | str, end: str
) -> None:
    template = TokenizerTemplate(tokenizer) if template == "own" else template
    segments = template.segments(TALK)
    tokens = tokenize(segments, tokenizer, [4, 3])
    assert template.end == end
    answers = "".join(f"{turn.answer}{end}" for turn in TALK.turns)
    assert learnt(tokens, tokenizer).replace(" ", "") == answers.replace(" ", "")
    # The places of media are two runs between their tags, and the rest is the text
    assert len(tokens.slots) == 7 and tokens.slots[3] - tokens.slots[0] == 3 and tokens.slots[6] - tokens.slots[4] == 2
    text = [token for i, token in enumerate(tokens.ids) if i not in tokens.slots]
    assert tokenizer.decode(text).removeprefix("<s>") == as_text(segments)
    assert as_text(segments, "*").count("<Video>*</Video>") == as_text(segments, "*").count("<Image>*</Image>") == 1
    assert not any(turn.answer in template.qformer_text(TALK) for turn in TALK.turns)


@pytest.mark.parametrize("template", [Vicuna(), Mistral(), Phi3(), "own"])
def test_a_prompt_is_what_stands_before_the_answer_in_training(
    tokenizer: PreTrainedTokenizerFast, template: Vicuna | str
) -> None:
    template = TokenizerTemplate(tokenizer) if template == "own" else template
    *before, last = TALK.turns
    asked = Conversation((*before, Turn(last.question)), TALK.instruction)
    prompt = as_text(template.segments(asked))
    assert as_text(template.segments(TALK)).startswith(prompt) and not prompt.endswith(" ")
    prefixed = Conversation((*before, Turn(last.question, prefix="Best option:(")), TALK.instruction)
    assert as_text(template.segments(prefixed)).endswith("Best option:(")


def test_vicunas_markers_are_learnt_in_the_released_form_only(tokenizer: PreTrainedTokenizerFast) -> None:
    talk = Conversation((Turn("What colour is it?", "A red one.", ("video",)),))
    released = tokenize(Vicuna(learn_markers=True).segments(talk), tokenizer, [2])
    assert learnt(released, tokenizer).replace(" ", "") == "###Human:###Assistant:Aredone.###"
    assert learnt(tokenize(Vicuna().segments(talk), tokenizer, [2]), tokenizer).replace(" ", "") == "Aredone.###"


def test_a_caption_is_cut_with_its_end_and_a_pad_token_may_be_no_target(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = "[INST] <Video><VideoHere></Video> What colour is it? [/INST]"
    segments = caption_segments(prompt, "A red one.", Mistral())
    whole = tokenize(segments, tokenizer, [2])
    assert learnt(whole, tokenizer) == "A red one.</s>" and whole.cut == 0
    cut = tokenize(segments, tokenizer, [2], answer_limit=1)
    assert cut.cut == len(whole.ids) - len(cut.ids) > 0 and sum(label != IGNORE_INDEX for label in cut.labels) == 1
    tokenizer.pad_token = "</s>"
    try:
        released = tokenize(segments, tokenizer, [2], ignore_pad_targets=True)
        assert learnt(released, tokenizer) == "A red one."
        assert learnt(tokenize(segments, tokenizer, [2]), tokenizer) == "A red one.</s>"
    finally:
        tokenizer.pad_token = "<pad>"


def test_a_limit_cuts_counts_and_refuses_what_is_left_without_a_target(tokenizer: PreTrainedTokenizerFast) -> None:
    segments = Mistral().segments(TALK)
    whole = tokenize(segments, tokenizer, [4, 3])
    cut = tokenize(segments, tokenizer, [4, 3], limit=len(whole.ids) - 5)
    assert cut.cut == 5 and cut.ids == whole.ids[:-5]
    short = Mistral().segments(Conversation((Turn("What colour is it?", "A red one.", ("video",)),)))
    first = next(i for i, label in enumerate(tokenize(short, tokenizer, [4]).labels) if label != IGNORE_INDEX)
    with pytest.raises(ValueError, match="no token of an answer is left"):
        tokenize(short, tokenizer, [4], limit=first)
    with pytest.raises(ValueError, match="too small for the 40 visual tokens"):
        tokenize(short, tokenizer, [40], limit=20)
    with pytest.raises(ValueError, match="context is 8"):
        tokenize(short, tokenizer, [4], context=8)


def test_a_batch_has_the_slots_of_every_row(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [
        tokenize(Mistral().segments(Conversation((Turn(question, "Yes.", ("video",)),))), tokenizer, [count])
        for question, count in (("Sure?", 3), ("What colour is it?", 2))
    ]
    batch = collate(rows, tokenizer.pad_token_id)
    length = batch.ids.shape[1]
    assert batch.slots.tolist() == rows[0].slots + [length + slot for slot in rows[1].slots]
    assert batch.attention_mask.sum(1).tolist() == [len(row.ids) for row in rows]
    assert (batch.labels[batch.attention_mask == 0] == IGNORE_INDEX).all()


def test_what_cannot_be_meant_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    segments = Mistral().segments(TALK)
    with pytest.raises(ValueError, match="places for 2 media, and 1"):
        tokenize(segments, tokenizer, [4])
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>")
    with pytest.raises(ValueError, match="no pad token"):
        tokenize(segments, bare, [4, 3])
    with pytest.raises(ValueError, match="no chat template"):
        TokenizerTemplate(bare)
    bare.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    with pytest.raises(ValueError, match="no special token"):
        TokenizerTemplate(bare)
    with pytest.raises(ValueError, match="use_fast=True"):
        tokenize(segments, object(), [4, 3])
    with pytest.raises(ValueError, match="only the last turn"):
        Conversation((Turn("a"), Turn("b", "c")))
    with pytest.raises(ValueError, match="at least one turn"):
        Conversation(())
    with pytest.raises(ValueError, match="this has 0"):
        caption_segments("no place", "a", Mistral())


def test_a_tokenizer_that_writes_its_start_token_gets_it_once(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    try:
        tokens = tokenize(TokenizerTemplate(tokenizer).segments(TALK), tokenizer, [1, 1])
        assert tokens.ids.count(tokenizer.bos_token_id) == 1
    finally:
        tokenizer.chat_template = CHATML
    assert tokenize(Vicuna().segments(TALK), tokenizer, [1, 1]).ids[0] == tokenizer.bos_token_id


def test_segments_of_media_have_no_text() -> None:
    assert all(not s.text for s in Vicuna().segments(TALK) if s.role is Role.VISUAL)
