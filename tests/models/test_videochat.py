"""VideoChat's models: the Q-Former is transformers', tiles, LoRA, answers that no batch changes, weights, refusals."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

import models
from models.chat.alignment import Alignment
from models.chat.conversation import ChatBatch, Tokens, collate
from models.chat.gmhra import VideoChatViT
from models.chat.language_model import add_lora, label_loss, language_model
from models.chat.qformer import QFormer
from models.chat.tiles import closest_tiles, padded_size, resize_to_tiles, split_tiles
from models.chat.token_merger import TokenMerger, merge
from models.chat.videochat import VideoChat
from models.convert import videochat as names
from models.convert.allowed_gaps import require_loaded
from models.vit import VideoViT

LLAMA = {
    **{"model_type": "llama", "vocab_size": 50, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "max_position_embeddings": 64},
}
SMALL = {"width": 16, "depth": 3, "heads": 2, "mlp": 24, "source": 12, "vocabulary": 30, "context": 20}


def vit(frames: int = 2, **options: object) -> VideoViT:
    return VideoViT(
        width=12, depth=2, heads=2, mlp=24, patch=8, tubelet=1, frames=frames, size=16, norm=False, **options
    )


def chat(llm: nn.Module | None = None, **options: object) -> VideoChat:
    torch.manual_seed(0)
    llm = llm or add_lora(language_model(LLAMA), 4, 8, 0.0, ["q_proj", "lm_head"])
    model = VideoChat(vit(), QFormer(**SMALL, dropout=0.0, **options), llm, queries=3, extra_queries=2).eval()
    for name, parameter in model.named_parameters():  # LoRA's second factors and extra queries begin at 0
        if "lora_B" in name or name == "extra_queries":
            nn.init.normal_(parameter, std=0.3)
    return model


def batch_of(rows: list[int], visual: int = 5) -> ChatBatch:
    """Conversations of so many tokens after the visual ones."""
    made = []
    for i, length in enumerate(rows):
        ids = [1, *[0] * visual, *((7 * i + torch.arange(length)) % 40 + 5).tolist()]
        made.append(Tokens(ids, [-100] * (visual + 2) + ids[visual + 2 :], list(range(1, visual + 1))))
    return collate(made, pad=0)


def test_the_qformer_is_that_of_transformers_and_masks_hold() -> None:
    torch.manual_seed(0)
    ours = QFormer(**SMALL).eval()
    config = InstructBlipQFormerConfig(
        **{"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2},
        **{"intermediate_size": 24, "encoder_hidden_size": 12, "max_position_embeddings": 20},
    )
    theirs = InstructBlipQFormerModel(config).eval()
    theirs.load_state_dict({k.replace("layers.", "encoder.layer."): v for k, v in ours.state_dict().items()})
    queries, video, ids = torch.randn(4, 16), torch.randn(2, 6, 12), torch.randint(1, 30, (2, 5))
    visible = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    mask = torch.cat((torch.ones(2, 4), visible), dim=1)
    expected = theirs(ids, mask, query_embeds=queries.expand(2, -1, -1), encoder_hidden_states=video).last_hidden_state
    assert_close(ours(queries, video, ids, visible), expected, atol=1e-5, rtol=1e-5)
    # What is padded changes nothing that is not
    other = ids.clone()
    other[1, 3:] = 9
    seen = ours(queries, video, other, visible)
    assert_close(seen[1, :7], expected[1, :7], atol=1e-5, rtol=1e-5)


def test_captions_are_causal_and_see_the_video() -> None:
    torch.manual_seed(0)
    former = QFormer(**SMALL, head=True).eval()
    for parameter in former.parameters():
        nn.init.normal_(parameter, std=0.3)
    queries, video, ids = torch.randn(4, 16), torch.randn(2, 6, 12), torch.randint(1, 30, (2, 5))
    states = former.hidden_states(queries, video)
    logits = former.caption_logits(ids, states)
    later = ids.clone()
    later[:, 3:] = 2
    assert_close(former.caption_logits(later, states)[:, :3], logits[:, :3])
    other = former.caption_logits(ids, former.hidden_states(queries, video.flip(0)))
    assert (other - logits).abs().max() > 1e-4


def test_stochastic_depth_drops_whole_branches_in_training_only() -> None:
    torch.manual_seed(0)
    former = QFormer(**SMALL, dropout=0.0, drop_path=0.5)
    queries, video = torch.randn(4, 16), torch.randn(2, 6, 12)
    still = QFormer(**SMALL, dropout=0.0).train()
    still.load_state_dict(former.state_dict())
    assert_close(former.eval()(queries, video), still(queries, video))
    runs = torch.stack([former.train()(queries, video) for _ in range(8)])
    assert runs.std(0).max() > 0.01


def test_queries_begin_with_the_feed_forward_layers_of_the_text() -> None:
    former = QFormer(**SMALL)
    former.copy_text_to_queries()
    state = former.state_dict()
    assert all(torch.equal(t, state[n.replace("_query", "")]) for n, t in state.items() if "_query." in n)


def test_the_video_token_is_unchanged_at_first_and_later_sees_the_order_of_frames() -> None:
    torch.manual_seed(0)
    encoder = VideoChatViT(12, 3, 2, 24, readers=2, reader_mlp=24, patch=8, size=16, frozen=True).eval()
    video = torch.randn(1, 3, 4, 16, 16)
    assert not encoder.summary(video).any()
    for reader in encoder.readers:
        nn.init.normal_(reader.attn.proj.weight)
    tokens, flipped = encoder(video), encoder(video.flip(2))
    assert tokens.shape == (1, 4 * 5 + 1, 12)
    assert_close(flipped[:, :-1].unflatten(1, (4, 5)), tokens[:, :-1].unflatten(1, (4, 5)).flip(1))
    assert (flipped[:, -1] - tokens[:, -1]).abs().max() > 1e-4
    trained = {name.partition(".")[0] for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {"readers", "video_token"}
    with pytest.raises(ValueError, match="whole frames only"):
        encoder(video, torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="set the encoder's size"):
        encoder(torch.randn(1, 3, 4, 8, 8))
    with pytest.raises(ValueError, match="at most depth"):
        VideoChatViT(12, 1, 2, 24, readers=2)


def test_an_image_has_the_positions_of_one_frame_whatever_the_clip() -> None:
    """A table that is resized to fewer frames mixes them; an image keeps the first frame's."""
    two, four = vit(2, made_for=(4, 2, 2)), vit(4)
    assert torch.equal(two.positions.of_image(), four.positions()[:4])
    assert not torch.allclose(two.positions()[:4], four.positions()[:4])
    two.patch_embed.load_state_dict(four.patch_embed.state_dict())
    image = torch.randn(1, 3, 1, 16, 16)
    assert_close(two.embed(image), four.embed(image))
    keep = torch.tensor([[2, 0]])
    assert_close(two.embed(image, keep), four.embed(image)[:, [2, 0]])


def test_tiles_cover_the_frame_in_raster_order_and_the_whole_is_last() -> None:
    video = torch.arange(8 * 12.0).view(1, 1, 8, 12)
    views = split_tiles(video, 4)
    assert views.shape == (7, 1, 1, 4, 4)
    assert torch.equal(views[4, 0, 0], video[0, 0, 4:, 4:8])
    assert len(split_tiles(video, 4, whole=False)) == 6
    assert resize_to_tiles(torch.rand(2, 3, 30, 61), 6, 8).shape == (2, 3, 8, 16)
    for height, width, most in ((240, 320, 6), (100, 1000, 4), (500, 300, 12)):
        assert math.prod(closest_tiles(height, width, most)) <= most
        tall = closest_tiles(width, height, most)
        assert sorted(tall) == sorted(closest_tiles(height, width, most))
        assert padded_size(height, width, most) == padded_size(width, height, most)[::-1]
    assert padded_size(1280, 720, 6, mirrored=True) == padded_size(1280, 720, 6)[::-1]
    with pytest.raises(ValueError, match="no tiles of 5"):
        split_tiles(video, 5)
    with pytest.raises(ValueError, match="at least one tile"):
        closest_tiles(10, 10, 0)


def test_no_batch_changes_a_loss_or_an_answer() -> None:
    model, videos = chat(), torch.randn(3, 3, 2, 16, 16)
    ids, visible = torch.randint(1, 30, (3, 6)), torch.ones(3, 6, dtype=torch.bool)
    visible[0, 4:] = False
    rows = [6, 11, 3]
    with torch.no_grad():
        visual = model.visual_tokens(videos, ids, visible)
        together, sums = batch_of(rows), []
        logits = model.logits(together, visual)
        answers = model.generate(together, visual, pad=0, max_new_tokens=5, do_sample=False, eos_token_id=49)
        for i in range(3):
            length = int(together.lengths[i])
            row = ChatBatch(
                together.ids[i : i + 1, :length],
                together.labels[i : i + 1, :length],
                together.lengths[i : i + 1],
                torch.arange(1, 6),
            )
            own = model.visual_tokens(videos[i : i + 1], ids[i : i + 1], visible[i : i + 1])
            assert_close(model.logits(row, own), logits[i : i + 1, :length], atol=1e-5, rtol=1e-5)
            sums.append(model(row, own) * (row.labels[:, 1:] != -100).sum())
            alone = model.generate(row, own, pad=0, max_new_tokens=5, do_sample=False, eos_token_id=49)
            assert torch.equal(answers[i : i + 1, : alone.shape[1]], alone)
        targets = (together.labels[:, 1:] != -100).sum()
        assert_close(model(together, visual), sum(sums) / targets, atol=1e-5, rtol=1e-5)
        # Padding on the other side, with a mask, as in generation
        lengths = together.lengths.tolist()
        rows = [row[:n] for row, n in zip(model.embed(together, visual), lengths, strict=True)]
        left = torch.nn.utils.rnn.pad_sequence(rows, True, padding_side="left")
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(n).long() for n in lengths], True, padding_side="left")
        found = model.llm(
            inputs_embeds=left, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
        ).logits
        for row, expected, n in zip(found, logits, lengths, strict=True):
            assert_close(row[-n:], expected[:n], atol=1e-5, rtol=1e-5)


def test_gradients_reach_all_that_is_trained_and_nothing_else() -> None:
    model, videos = chat(), torch.randn(2, 3, 2, 16, 16)
    ids = torch.randint(1, 30, (2, 6))
    model(batch_of([6, 8]), model.visual_tokens(videos, ids)).backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("llm."):
            assert name.startswith(("qformer.layers.2.intermediate.", "qformer.layers.2.output.")) or (
                parameter.grad is not None
            ), name  # the text's last layer has no reader
        else:
            assert (parameter.grad is not None) == ("lora_" in name), name


def test_merged_tokens_are_means_of_similar_ones_and_frames_stay_apart() -> None:
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(3, 12), dim=1)
    kinds = torch.tensor([0, 1, 1, 0, 2, 2, 1, 0, 0, 2])  # of ten tokens; equal ones are in both halves
    frame = directions[kinds] + 0.01 * torch.randn(10, 12)
    made = merge(frame[None], 3)[0]
    assert sorted((made @ directions.t()).argmax(dim=1).tolist()) == [0, 1, 2]
    merger = TokenMerger(12, 1, frames=2)
    video = torch.randn(2, 10, 12, requires_grad=True)
    merged = merger(video)
    assert_close(merged, video.unflatten(1, (2, 5)).mean(2))  # whatever the order of merging
    merged.sum().backward()
    assert video.grad is not None and video.grad.all()
    with pytest.raises(ValueError, match="cannot become 6 in each of 2 frames"):
        TokenMerger(12, 6, frames=2)(video)
    model = VideoChat(vit(), TokenMerger(12, 2, frames=2), language_model(LLAMA))
    assert (
        model.visual_tokens(torch.randn(1, 3, 2, 16, 16)).shape == (1, model.visual_tokens_of_video, 24) == (1, 4, 24)
    )


def test_tiles_are_each_read_as_a_video() -> None:
    model, video = chat(), torch.randn(3, 2, 16, 32)
    ids = torch.randint(1, 30, (1, 6))
    with torch.no_grad():
        (tokens,) = model.tile_tokens([video], ids)
        assert tokens.shape == (15, 24)
        left = model.visual_tokens(video[None, ..., :16], ids)
    assert_close(tokens[:5], left[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", names.FAMILIES)
def test_the_official_layout_loads_with_lora_or_without_and_comes_back_the_same(family: names.Family) -> None:
    model = chat()
    state, unknown = names.to_official(model.state_dict(), family)
    assert not unknown and f"{family}_model.base_model.model.lm_head.weight" in state
    other = chat()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    report = models.load_weights(other, state)
    require_loaded(report)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    # Base weights of a plain language model load into an adapted one, whose adapters are then missing
    plain = chat(language_model(LLAMA))
    report = models.load_weights(chat(), names.to_official(plain.state_dict(), family)[0])
    require_loaded(report, missing=["llm.*.lora_*"])
    with pytest.raises(ValueError, match="lora_A"):
        require_loaded(report)


def test_gaps_surplus_and_weights_of_another_model_are_refused() -> None:
    state = names.to_official(chat().state_dict(), "llama")[0]
    trained = {name: tensor for name, tensor in state.items() if "llama_model" not in name or ".lora_" in name}
    report = models.load_weights(chat(), trained)
    require_loaded(report, missing=["llm.*"])
    with pytest.raises(ValueError, match="only none may be"):
        require_loaded(report)
    report = models.load_weights(chat(text=False), trained)
    with pytest.raises(ValueError, match="has, and the model does not"):
        require_loaded(report, missing=["llm.*"])
    require_loaded(
        report, ["llm.*"], ["qformer.bert.embeddings.*", "qformer.bert.encoder.layer.?.*put.*", "*.intermediate.*"]
    )
    wide = chat(language_model(LLAMA | {"hidden_size": 32}))
    with pytest.raises(ValueError, match="another architecture"):
        models.load_weights(wide, state)
    twice = {name.replace("base_model.model.", 2 * "base_model.model."): tensor for name, tensor in state.items()}
    with pytest.raises(ValueError, match="wrapped by LoRA twice"):
        models.load_weights(chat(), twice)


def test_what_a_language_model_lacks_is_named(tmp_path: Path) -> None:
    llm = language_model(LLAMA)
    with pytest.raises(ValueError, match="no layer qkv"):
        add_lora(llm, targets=["qkv"])
    adapted = add_lora(llm, targets=["q_proj"])
    with pytest.raises(ValueError, match="Add it once"):
        add_lora(adapted, targets=["q_proj"])
    with pytest.raises(ValueError, match="no hiden_size"):
        language_model(LLAMA | {"hiden_size": 3})
    with pytest.raises(ValueError, match="model_type"):
        language_model({"hidden_size": 3})
    with pytest.raises(FileNotFoundError, match="no language model at"):
        language_model(tmp_path / "none")
    language_model(LLAMA).save_pretrained(tmp_path / "llm")
    assert language_model(tmp_path / "llm").config.hidden_size == 24


def test_parts_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="attends to 10 channels"):
        VideoChat(vit(), QFormer(**SMALL | {"source": 10}), language_model(LLAMA))
    with pytest.raises(ValueError, match="head: true"):
        Alignment(vit(), QFormer(**SMALL))
    with pytest.raises(ValueError, match="text: true"):
        QFormer(**SMALL, text=False, head=True)
    without = chat(text=False)
    with pytest.raises(ValueError, match="no text branch"):
        without.visual_tokens(torch.randn(1, 3, 2, 16, 16), torch.ones(1, 2, dtype=torch.long))
    model = chat()
    with pytest.raises(ValueError, match="longer than the Q-Former's context"):
        model.visual_tokens(torch.randn(1, 3, 2, 16, 16), torch.ones(1, 21, dtype=torch.long))
    with pytest.raises(ValueError, match="10 visual tokens are given for 5 places"):
        model.embed(batch_of([4]), torch.randn(2, 5, 24))


def test_an_image_in_alignment_is_one_frame_or_as_released_repeated() -> None:
    torch.manual_seed(0)
    model = Alignment(vit(), QFormer(**SMALL, head=True), queries=3, features=8)
    image = torch.randn(1, 3, 1, 16, 16)
    assert model.video_tokens(image).shape == (1, 4, 12)
    model.repeat_images = True
    assert model.video_tokens(image).shape == (1, 8, 12)


def test_the_loss_is_0_without_targets() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    loss = label_loss(logits, torch.full((1, 3), -100))
    loss.backward()
    assert loss == 0 and not logits.grad.any()
