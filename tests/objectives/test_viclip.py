"""ViCLIP and ViLP: weights in and out, masked tokens, odd captions, and independence of how a batch is divided."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors.torch import save_file

import models
from models.convert import clip as clip_names
from models.convert import viclip as names
from models.convert.rules import prefixed, to_theirs
from models.tokenizers import CLIPTokenizer
from pretrain.export import clip_pair
from pretrain.export.command import to_official, to_safetensors
from pretrain.learning.contrast import hash_names
from pretrain.learning.masking import Random, RandomFrames
from pretrain.objectives import ViCLIP, ViLP

TEXTS = ["a dog runs on the beach", "snow", "a man plays the guitar loudly", "two cats"]


def towers(tubelet: int = 1, mask_token: bool = False) -> tuple[models.ViCLIPVision, models.CLIPText]:
    torch.manual_seed(0)
    video = models.ViCLIPVision(48, 2, 4, 96, 8, tubelet, 4, 32, 24)
    torch.nn.init.normal_(video.time.table)
    return video, models.CLIPText(32, 2, 4, 64, 24, context=16, mask_token=mask_token)


def viclip(**options) -> ViCLIP:
    return ViCLIP(*towers(), **options)


def vilp(**options) -> ViLP:
    return ViLP(*towers(mask_token=True), models.FusionDecoder(32, 1, 4, 64, 48), **options)


def batch(texts: list[str] = TEXTS) -> dict:
    video = torch.randint(0, 256, (len(texts), 3, 4, 32, 32), dtype=torch.uint8)
    return {"video": video, "text": texts, "name": [str(i) for i in range(len(texts))]}


@pytest.mark.parametrize("layout", ["openai", "transformers", "vision alone"])
def test_clip_weights_start_both_towers(layout: str, tmp_path: Path) -> None:
    """The video tower starts as CLIP's: a clip of one repeated image has that image's feature."""
    e, t = towers()
    torch.nn.init.zeros_(e.time.table)
    state = {
        **{f"encoder.{n}": p for n, p in e.state_dict().items()},
        **{f"text.{n}": p for n, p in t.state_dict().items()},
    }
    state["encoder.patch_embed.proj.weight"] = state["encoder.patch_embed.proj.weight"].squeeze(2)
    del state["encoder.time.table"]
    rules = {
        "openai": {**prefixed(clip_names.OPENAI, "encoder."), **clip_names.OPENAI_TEXT},
        "transformers": {**prefixed(clip_names.TRANSFORMERS, "encoder."), **clip_names.TRANSFORMERS_TEXT},
        "vision alone": prefixed(clip_names.OPENAI_VISUAL, "encoder."),
    }[layout]
    theirs = {**to_theirs(rules, state)[0], "logit_scale": torch.tensor(4.6)}
    save_file(theirs, tmp_path / "clip.safetensors")
    torch.manual_seed(9)
    model = ViCLIP(models.ViCLIPVision(48, 2, 4, 96, 8, 1, 4, 32, 24), models.CLIPText(32, 2, 4, 64, 24, context=16))
    report = models.load_weights(model, tmp_path / "clip.safetensors")
    assert report.unused == ["logit_scale"]
    assert "encoder.time.table" in report.missing and "temperature" in report.missing
    assert any(n.startswith("text.") for n in report.missing) == (layout == "vision alone")
    picture = torch.randn(2, 3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.encoder.feature_and_tokens(picture)[0], e.feature_and_tokens(picture)[0])


def test_longer_text_tables_are_cut_and_shorter_ones_go_on_with_zeros() -> None:
    table = torch.randn(77, 32)
    assert torch.equal(towers()[1].fit_table(table), table[:16])
    assert torch.equal(towers()[1].fit_table(table[:10])[10:], torch.zeros(6, 32))


def test_deeper_tubelets_take_a_picture_s_patches_on_their_middle_frame() -> None:
    flat, _ = towers()
    state = {f"vision_encoder.{n}": p for n, p in to_theirs(clip_names.openai_vision(""), flat.state_dict())[0].items()}
    state["vision_encoder.temporal_positional_embedding"] = torch.zeros(1, 2, 48)
    state["vision_encoder.conv1.weight"] = state["vision_encoder.conv1.weight"].squeeze(2)
    deep, _ = towers(tubelet=2)
    models.load_weights(deep, state)
    kernel = deep.patch_embed.proj.weight
    assert not kernel[:, :, 0].any() and torch.equal(kernel[:, :, 1], flat.patch_embed.proj.weight[:, :, 0])


@pytest.mark.parametrize("tubelet", [1, 2])
def test_transformers_folder_out_and_back(tubelet: int, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer, CLIPModel, CLIPTextModelWithProjection

    model = ViCLIP(*towers(tubelet)).eval()
    assert "features equal" in clip_pair.to_transformers(model, tmp_path)
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())
    theirs = AutoModel.from_pretrained(tmp_path, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    wordy = [*TEXTS, "It's 42 degrees, isn't it? 😀", "a " * 40]
    ids = tokenizer(wordy, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ids, CLIPTokenizer(16)(wordy))
    video = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        feature = model.encoder.feature_and_tokens(video)[0]
        torch.testing.assert_close(theirs.get_video_features(video.transpose(1, 2)), feature, atol=1e-5, rtol=1e-4)
        text = model.text(ids)[0]
        torch.testing.assert_close(theirs.get_text_features(ids), text, atol=1e-5, rtol=1e-4)
        if tubelet == 1:
            plain = CLIPModel.from_pretrained(tmp_path / "clip").eval()
            seen = plain.visual_projection(plain.vision_model(video[:, :, 0]).pooler_output)
            torch.testing.assert_close(seen, model.encoder.feature_and_tokens(video[:, :, :1])[0], atol=1e-5, rtol=1e-4)
        else:
            plain = CLIPTextModelWithProjection.from_pretrained(tmp_path / "text").eval()
            torch.testing.assert_close(plain(ids).text_embeds, text, atol=1e-5, rtol=1e-4)
    torch.manual_seed(9)
    back = ViCLIP(
        models.ViCLIPVision(48, 2, 4, 96, 8, tubelet, 4, 32, 24), models.CLIPText(32, 2, 4, 64, 24, context=16)
    )
    report = models.load_weights(back, tmp_path)
    assert not report.unused and not report.missing
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), model.state_dict().values(), strict=True))


def test_official_layout_out_and_back(tmp_path: Path) -> None:
    model = viclip()
    to_official(model, tmp_path, True, {})
    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["model"]
    assert saved["vision_encoder.temporal_positional_embedding"].shape == (1, 4, 48)
    torch.manual_seed(9)
    back = ViCLIP(models.ViCLIPVision(48, 2, 4, 96, 8, 1, 4, 32, 24), models.CLIPText(32, 2, 4, 64, 24, context=16))
    report = models.load_weights(back, tmp_path / "checkpoint.pth")
    assert not report.unused and not report.missing
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), model.state_dict().values(), strict=True))


def test_vilp_gives_its_towers_official_names_and_its_own_all(tmp_path: Path) -> None:
    model = vilp()
    with pytest.raises(ValueError, match="--decoder false"):
        to_official(model, tmp_path, True, {})
    to_official(model, tmp_path, False, {})
    assert models.load_weights(viclip(), tmp_path / "checkpoint.pth").missing == []
    to_safetensors(model, tmp_path, True, {"init_args": {"encoder": {}, "text": {}, "fusion": {}}})
    report = models.load_weights(vilp(), tmp_path / "model.safetensors")
    assert not report.unused and not report.missing


def test_frozen_text_neither_trains_nor_moves() -> None:
    model = viclip(freeze_text=True)
    model(batch())["contrast"].backward()
    assert all(p.grad is None for p in model.text.parameters())
    assert model.temperature.grad is not None
    hidden = vilp(freeze_text=True)
    sum(hidden(batch()).values()).backward()
    assert [n for n, p in hidden.text.named_parameters() if p.grad is not None] == ["mask_embed"]


def test_temperature_never_falls_below_its_least() -> None:
    model = viclip(temperature=0.001, temperature_min=0.02)
    model(batch())
    assert model.temperature.item() == pytest.approx(0.02)


def test_videos_of_one_name_are_positives_of_each_other() -> None:
    model = viclip().eval()
    twice = {
        name: value * 2 if isinstance(value, list) else value.repeat(2, 1, 1, 1, 1) for name, value in batch().items()
    }
    # The same pairs once more double every row's candidates and its targets: the loss rises by log 2.
    once = model(batch() | {"video": twice["video"][:4]})["contrast"]
    assert (model(twice)["contrast"] - once).item() == pytest.approx(0.6931, abs=1e-3)


def test_keys_are_one_for_a_name_and_differ_for_others() -> None:
    assert torch.equal(hash_names(["a", "b", "a"]), hash_names(["a", "b", "a"]))
    assert len(set(hash_names([str(i) for i in range(10_000)]).tolist())) == 10_000


def test_the_text_after_the_end_does_not_matter() -> None:
    _, text = towers()
    ids = CLIPTokenizer(16)(TEXTS)
    long, _ = text(ids)
    for row, feature in zip(ids, long, strict=True):
        torch.testing.assert_close(text(row[None, : int(row.argmax()) + 1])[0][0], feature)


def test_masked_tokens_do_not_reach_the_text_tower() -> None:
    """Another token under the mask changes no output."""
    _, text = towers(mask_token=True)
    ids = CLIPTokenizer(16)(["a red dog runs", "a red dog runs"])
    ids[1, 2] = 1000
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[:, 2] = True
    feature, tokens = text(ids, hidden)
    assert torch.equal(feature[0], feature[1]) and torch.equal(tokens[0], tokens[1])


@pytest.mark.parametrize("ratio", [0.0, 0.15, 1.0])
def test_start_end_and_padding_are_never_masked(ratio: float) -> None:
    model = vilp(word_ratio=ratio)
    ids = CLIPTokenizer(16)([*TEXTS, ""])
    hidden = model.mask_tokens(ids, torch.rand(len(ids), 16))
    special = (ids == 49406) | (ids == 49407) | (ids == 0)
    assert not (hidden & special).any()
    words = (~special).sum(1)
    assert ((hidden.sum(1) >= 1) == (words > 0)).all()
    if ratio == 1.0:
        assert torch.equal(hidden.sum(1), words)
    if ratio == 0.0:
        assert hidden.sum(1).max() == 1


def test_the_masked_token_loss_is_the_mean_of_its_parts() -> None:
    model = vilp(word_ratio=0.5).eval()
    ids = CLIPTokenizer(16)(TEXTS)
    hidden = model.mask_tokens(ids, torch.rand(4, 16))
    states, tokens = torch.randn(4, 16, 32), torch.randn(4, 8, 48)
    whole = states, tokens, ids, hidden
    parts = [model.masked_token_loss(*(x[i : i + 2] for x in whole)) for i in (0, 2)]
    torch.testing.assert_close(model.masked_token_loss(*whole), torch.cat(parts))


def test_masked_tokens_are_predicted_from_the_video() -> None:
    """The masked-token loss alone has a gradient in the video tower."""
    model = vilp(mask=Random(0.5))
    model(batch())["words"].backward()
    assert model.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


def test_random_frames_keep_as_many_of_each_slice() -> None:
    keep = RandomFrames(0.75)(torch.rand(3, 4 * 16), (4, 4, 4))
    slices = F.one_hot(keep // 16, 4).sum(1)
    assert (slices == 4).all() and all(len(set(row.tolist())) == 16 for row in keep)


def test_evaluation_sees_all_patches_and_draws_nothing() -> None:
    model = viclip(mask=Random(0.9)).eval()
    first = model(batch() | {"video": torch.zeros(4, 3, 4, 32, 32)})["contrast"]
    model.random_key = model.random_key._replace(step=7)
    assert first == model(batch() | {"video": torch.zeros(4, 3, 4, 32, 32)})["contrast"]


@pytest.mark.parametrize("text", ["", "😀 🎸 ¡olé! 日本語", "word " * 2000, "<person>", "\t\n", "0"])
def test_any_string_is_a_caption(text: str) -> None:
    for model in (viclip(), vilp()):
        losses = model(batch([*TEXTS[:3], text]))
        assert all(loss.isfinite() for loss in losses.values())


def test_a_caption_that_is_no_string_raises() -> None:
    with pytest.raises(ValueError, match="a caption should be a string, and one is float"):
        viclip()(batch([*TEXTS[:3], float("nan")]))


@pytest.mark.parametrize("recipe", ["viclip_tiny", "vilp_tiny"])
def test_training_without_captions_raises(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules import Synthetic
    from tests.helpers.runs import ROOT, fit

    bare = Synthetic.__getitem__
    monkeypatch.setattr(Synthetic, "__getitem__", lambda self, i: setattr(self, "texts", 0) or bare(self, i))
    with pytest.raises(
        MisconfigurationException, match="learns from video and text, and the training data have no `text`"
    ):
        fit(tmp_path, ["-c", str(ROOT / f"recipes/{recipe}.yaml")])


def test_parts_that_do_not_fit_raise() -> None:
    video, text = towers()
    with pytest.raises(ValueError, match="the video's `out` is 24, the text's 16"):
        ViCLIP(video, models.CLIPText(32, 1, 4, 64, 16))
    with pytest.raises(ValueError, match="mask_token: true"):
        ViLP(video, text, models.FusionDecoder(32, 1, 4, 64, 48))
    with pytest.raises(ValueError, match="set its width and video_width"):
        ViLP(*towers(mask_token=True), models.FusionDecoder(32, 1, 4, 64, 32))
    with pytest.raises(ValueError, match="the encoder was made for 4 frames of 32 x 32"):
        video.feature_and_tokens(torch.randn(1, 3, 3, 32, 32))


def test_official_names_are_all_ours() -> None:
    """303 tensors of ViCLIP B and 447 of L, as the official classes have."""
    for size, tensors, millions in (("base", 303, 149.6), ("large", 447, 427.6)):
        with torch.device("meta"):
            vision = {**models.CLIP_SIZES[size], "frames": 8}
            model = ViCLIP(models.ViCLIPVision(**vision), models.CLIPText(**models.TEXT_SIZES[size]))
        theirs, unknown = to_theirs(names.OFFICIAL, {n: p for n, p in model.named_parameters()})
        assert not unknown and len(theirs) == tensors
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
