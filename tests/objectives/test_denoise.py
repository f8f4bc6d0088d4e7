"""LaVie's objective: held-out loss, joint images, frozen parts, LoRA, latents, conditions, and refused data."""

import logging
from pathlib import Path

import pytest
import torch

import models
from datamodules.loading.token_batches import WithTokens
from models.diffusion import SpatioTemporalUNet
from models.diffusion.autoencoder import KLAutoencoder, PixelAutoencoder
from models.text import CLIPText
from models.tokenizers import CLIPTokenizer
from pretrain.learning.conditions import Condition, CopiedFrames, LowResolution
from pretrain.learning.lora import LoRA
from pretrain.learning.prompts import Prompts
from pretrain.learning.row_noise import row_choices
from pretrain.learning.teachers import Frozen
from pretrain.objectives import Denoise
from tests.helpers.methods import METHODS
from tests.helpers.runs import fit, losses, weights

LAVIE = METHODS["lavie"]
WORDS = ["a red circle moves left", "a green square moves up"]


def network(**options) -> SpatioTemporalUNet:
    torch.manual_seed(0)
    sizes = {"widths": (32, 32), "depth": 1, "attention": (True, True), "heads": 1, "groups": 8, "text_width": 32}
    unet = SpatioTemporalUNet(**{"channels": 12, **sizes, **options})
    with torch.no_grad():
        for parameter in unet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)  # layers that start at zero hide what they do
    return unet


def objective(unet: SpatioTemporalUNet | None = None, condition: Condition | None = None, factor: int = 2, **options):
    text = Frozen(CLIPText(width=32, depth=1, heads=1, mlp=32, out=32, vocabulary=49408, context=16), random=0)
    vae = Frozen(PixelAutoencoder(factor), random=0)
    return Denoise(unet or network(), vae, text, condition=condition, global_batch=2, **options)


def batch_of(frames: int = 4, size: int = 16, rows: int = 2, **more) -> dict:
    generator = torch.Generator().manual_seed(3)
    video = torch.randint(0, 256, (rows, 3, frames, size, size), dtype=torch.uint8, generator=generator)
    return {"video": video, "text": [WORDS[i % 2] for i in range(rows)], "name": [f"n{i}" for i in range(rows)], **more}


def rows_of(batch: dict, rows: slice) -> dict:
    return {name: value[rows] for name, value in batch.items()}


def test_the_held_out_loss_depends_on_names_and_not_on_the_batch() -> None:
    method, batch = objective(text_dropout=1.0).eval(), batch_of(rows=4)
    with torch.no_grad():
        whole = method(batch)
        parts = [method(rows_of(batch, slice(i, i + 1))) for i in range(4)]
        torch.manual_seed(5)
        method.seed = 9
        again = method(batch)
        other = method({**batch, "name": ["x", "y", "z", "w"]})
    assert len(whole) == 10 and whole.keys() - method.figures == {"denoise"}
    for name, loss in whole.items():
        torch.testing.assert_close(loss, torch.stack([part[name] for part in parts]).mean())
        assert loss == again[name] != other[name]
    torch.testing.assert_close(whole["denoise"], torch.stack([whole[name] for name in method.figures]).mean())


def test_training_noise_depends_on_the_place_in_the_global_batch() -> None:
    """Whole batches equal two ranks' halves; `places` gives each rank its rows."""
    method, batch = objective(), batch_of(rows=2)
    whole = method(batch)["video"]
    places = method.places
    halves = []
    for rank in range(2):
        method.places = lambda rows, rank=rank, **_: torch.tensor([rank])
        halves.append(method(rows_of(batch, slice(rank, rank + 1)))["video"])
    method.places = places
    torch.testing.assert_close(whole, torch.stack(halves).mean())
    assert halves[0] != halves[1]


def test_images_are_learnt_beside_the_video_and_skip_the_time_layers() -> None:
    images = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    texts = [["a red cross", "a", "b"], ["c", "d", "e"]]
    method = objective(network(norm_over_frames=False), image_weight=0.5, text_dropout=0.0)
    batch = batch_of(images=images, image_text=texts)
    found = method(batch)
    assert found.keys() == {"video", "images"}
    found["images"].backward()
    temporal = [p.grad for name, p in method.unet.named_parameters() if "temporal" in name]
    assert temporal and all(gradient is None or not gradient.any() for gradient in temporal)
    other = method({**batch, "image_text": [["z", "a", "b"], ["c", "d", "e"]]})
    torch.testing.assert_close(other["video"], found["video"])  # each image has its own text
    assert other["images"] != found["images"]


def test_dropped_texts_are_exactly_the_null_text() -> None:
    dropped, null = objective(text_dropout=1.0, null_text="None"), objective(text_dropout=0.0)
    dropped.unet.load_state_dict(null.unet.state_dict())
    assert dropped(batch_of())["video"] == null(batch_of(text=["None", "None"]))["video"]
    assert dropped(batch_of())["video"] != null(batch_of())["video"]


def test_latents_and_states_give_the_loss_of_the_video() -> None:
    for dropout in (0.0, 1.0):
        method, batch = objective(text_dropout=dropout), batch_of()
        moments = method.vae(method.normalize(batch["video"]))
        states = method.prompts(batch["text"], torch.device("cpu"))
        stored = {"latents": moments, "text_states": states, "name": batch["name"]}
        torch.testing.assert_close(method(stored), method(batch))
        assert method.eval()(method.on_host(stored))["denoise"] == method(batch)["denoise"]


def test_each_pass_draws_from_the_posterior_anew() -> None:
    method = objective()
    moments = torch.zeros(2, 24, 4, 8, 8)  # of variance 1
    seeds = [1, 2]
    first, _ = method.clean_latents({"latents": moments}, seeds)
    assert abs(float(first.std()) - 1) < 0.1 and not torch.equal(
        *method.clean_latents({"latents": moments}, [3, 4])[:1], first
    )


def test_errors_are_weighted_by_the_signal_to_noise_ratio() -> None:
    plain, weighted = objective(kind="v"), objective(kind="v", weighting="min_snr", gamma=3.0)
    weighted.unet.load_state_dict(plain.unet.state_dict())
    one = rows_of(batch_of(), slice(0, 1))
    ratio = float(weighted(one)["video"] / plain(one)["video"])
    choices = row_choices(plain.derive_seed(0))
    choices.random_sample()  # whether the text is dropped
    step = choices.randint(1000)
    snr = float(plain.alpha_bar[step] / (1 - plain.alpha_bar[step]))
    assert ratio == pytest.approx(min(snr, 3.0) / (snr + 1), rel=1e-4)


def test_only_named_parts_are_trained() -> None:
    method = objective(trained=["temporal"])
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert trained and all("temporal" in name for name in trained)
    method(batch_of())["video"].backward()
    assert all((p.grad is not None) == p.requires_grad for p in method.parameters())
    with pytest.raises(ValueError, match="no parameter matches 'tempral'"):
        objective(trained=["tempral"])


def test_lora_trains_additions_alone_and_weights_still_load() -> None:
    plain = objective()
    adapted = objective(network(), lora=LoRA(rank=2))
    report = models.load_weights(adapted, plain.state_dict())
    assert not report.missing and not report.unused
    torch.testing.assert_close(adapted(batch_of()), plain(batch_of()))  # additions start at zero
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert any(".temporal_attn.to_q." in name for name in trained) and not any(".ff." in name for name in trained)
    with pytest.raises(ValueError, match="no linear layer matches"):
        objective(lora=LoRA(layers="nothing"))


def test_interpolation_is_given_the_frames_of_the_low_rate() -> None:
    unet = network(condition_channels=12, spatial="sparse_causal", temporal="after_ff", rotary=0, buckets=0)
    method = objective(unet, CopiedFrames(4), null_text="None")
    batch = batch_of(frames=9)
    x0, _ = method.clean_latents(batch, [1, 2])
    given, level = method.conditions(batch, x0, [1, 2])
    assert level is None and given.shape == x0.shape
    assert torch.equal(given[:, :, [0, 3, 7]], x0[:, :, [0, 4, 8]])
    method(batch)["video"].backward()
    method.sampling.steps = 2
    assert method.eval().predict(batch)["video"].shape == (2, 3, 9, 16, 16)
    for frames in (4, 8):
        with pytest.raises(ValueError, match=r"clips of n x 4 \+ 1 frames, such as 5"):
            method(batch_of(frames=frames))


def test_super_resolution_is_given_a_noisy_small_picture() -> None:
    unet = network(channels=48, condition_channels=3, noise_levels=1000)
    method = objective(unet, LowResolution(4), factor=4, kind="v", trained=["temporal"])
    batch = batch_of(size=32)
    x0, _ = method.clean_latents(batch, [1, 2])
    low, levels = method.conditions(batch, x0, [1, 2])
    assert low.shape == (2, 3, 4, 8, 8) and levels.max() < 350 and levels[0] != levels[1]
    method.eval()
    assert method.conditions(batch, x0, [1, 2])[1].tolist() == [50, 50]
    with pytest.raises(ValueError, match="train it from videos"):
        method.on_host({"latents": torch.zeros(1, 96, 4, 8, 8), "text_states": torch.zeros(1, 2, 32), "name": ["a"]})
    with pytest.raises(ValueError, match="must be that of the autoencoder"):
        objective(unet, LowResolution(2), factor=4)(batch)


def test_data_that_cannot_be_learnt_from_are_refused() -> None:
    method = objective()
    with pytest.raises(ValueError, match="add a `text`"):
        method.on_host({"video": batch_of()["video"], "name": ["a", "b"]})
    with pytest.raises(ValueError, match=r"15 x 15 pixels do not divide by 2.*take 14 x 14"):
        method.on_host(batch_of(size=15))
    with pytest.raises(ValueError, match="of another autoencoder"):
        method.on_host({"latents": torch.zeros(1, 8, 4, 8, 8), "text_states": torch.zeros(1, 2, 32), "name": ["a"]})
    with pytest.raises(ValueError, match="set the network's `channels`"):
        objective(network(channels=4))
    with pytest.raises(ValueError, match="set `condition`"):
        objective(network(condition_channels=3))
    with pytest.raises(ValueError, match="predicts v or x0"):
        objective(zero_snr=True)


def test_a_step_with_ids_needs_no_tokenizer() -> None:
    """Ids from the loading processes give the loss of the texts, also of dropped texts, of cut ones and of images."""
    images = torch.randint(0, 256, (4, 3, 2, 16, 16), dtype=torch.uint8)
    long = "a long text of more tokens than the encoder reads, whose end is cut and counted by the step"
    texts = [["a", long], ["b", ""], ["c", "d"], ["d", "e"]]
    method, batch = objective(text_dropout=0.5), batch_of(rows=4, images=images, image_text=texts)
    batch["text"][1] = long
    right = method(batch)
    assert method.prompts.cut == 2
    batch |= WithTokens([batch], method.token_encoder())[0]
    assert method.null_ids.shape == batch["ids"].shape[1:] == batch["image_ids"].shape[2:] == (17,)
    method.token_encoder = lambda: pytest.fail("the step tokenizes")
    found = method(batch)
    assert torch.equal(found["video"], right["video"]) and torch.equal(found["images"], right["images"])
    assert method.prompts.cut == 4


def test_long_texts_are_cut_with_a_counted_warning(caplog: pytest.LogCaptureFixture) -> None:
    text = Frozen(CLIPText(width=32, depth=1, heads=1, mlp=32, out=32, context=8), random=0)
    prompts = Prompts(text)
    with caplog.at_level(logging.WARNING):
        states = prompts(["one two three four five six", ""], torch.device("cpu"))  # 8 tokens fit
        assert states.shape == (2, 8, 32) and not caplog.records
        for _ in range(10):
            prompts(["one two three four five six seven"], torch.device("cpu"))
    assert [r.getMessage()[:46] for r in caplog.records] == [
        "a text of 9 tokens is cut to 8 (1 so far): 'on",
        "a text of 9 tokens is cut to 8 (10 so far): 'o",
    ]
    ids = CLIPTokenizer(8, "end")(["a"])
    assert ids[0, 2:].tolist() == [CLIPTokenizer.end] * 6


def test_an_autoencoder_of_another_scale_is_refused(tmp_path: Path) -> None:
    ours = {"widths": (8, 8), "depth": 1, "groups": 4}
    torch.manual_seed(1)
    made = KLAutoencoder(**ours, scale=0.5)
    made.vae.save_pretrained(tmp_path / "vae")
    frozen = Frozen(KLAutoencoder(**ours, scale=0.5, frames=2), weights=str(tmp_path / "vae"))
    video = torch.rand(1, 3, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(frozen(video), made(video))  # frame by frame or at once
    assert made.decode(made(video)[:, :4]).shape == video.shape
    with pytest.raises(ValueError, match=r"scaling_factor 0.5, and the recipe's has 0.18215"):
        Frozen(KLAutoencoder(**ours), weights=str(tmp_path / "vae")).load()
    with pytest.raises(FileNotFoundError, match="no autoencoder at"):
        Frozen(KLAutoencoder(**ours), weights=str(tmp_path / "none")).load()


def test_pixels_come_back_exactly() -> None:
    video = torch.rand(2, 3, 3, 8, 12) * 2 - 1
    vae = PixelAutoencoder(4)
    assert torch.equal(vae.decode(vae(video).chunk(2, dim=1)[0]), video)


def test_predict_depends_on_text_and_name_only() -> None:
    method = objective().eval()
    method.sampling.steps = 2
    batch = batch_of()
    made = method.predict(batch)["video"]
    assert made.dtype == torch.uint8 and made.shape == batch["video"].shape
    again = method.predict({**batch, "video": 255 - batch["video"]})["video"]
    assert torch.equal(made, again)
    assert torch.equal(method.predict(rows_of(batch, slice(1, 2)))["video"][0], made[1])
    assert not torch.equal(method.predict({**batch, "text": batch["text"][::-1]})["video"], made)


def test_neither_autoencoder_nor_text_encoder_is_trained_or_saved() -> None:
    frozen = Frozen(KLAutoencoder(widths=(8, 8), depth=1, groups=4), random=0)
    text = Frozen(CLIPText(width=32, depth=1, heads=1, mlp=32, out=32, context=16), random=0)
    method = Denoise(network(channels=4), frozen, text)
    assert {name.split(".")[0] for name in method.state_dict()} == {"unet"}
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"unet"}
    method(batch_of())["video"].backward()
    assert all(p.grad is None and not p.requires_grad for p in frozen.model.parameters())


def test_a_run_with_images_validates_from_step_zero(tmp_path: Path) -> None:
    recorder = f"{{class_path: tests.helpers.runs.LossRecorder, init_args: {{path: {tmp_path}/losses.tsv}}}}"
    images = ["--data.init_args.images=Synthetic", "--data.init_args.images.init_args.samples=8"]
    more = ["--data.init_args.images_per_video=2", "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    run = fit(
        tmp_path, LAVIE, *images, *more, "--trainer.callbacks+=ValidateAtStart", f"--trainer.callbacks+={recorder}"
    )
    found = losses(tmp_path)
    assert ("val", 0) in found and ("val", 2) in found
    assert all(name.startswith("unet.") for name in weights(run, 2))
