"""VideoMAE: masked pixels do not leak, reconstructions, and errors of sizes that do not fit."""

import pytest
import torch

from models import PixelDecoder, VideoViT
from models.layers import take_patches
from pretrain.learning.losses import masked_mse
from pretrain.learning.masking import RunningCell, Tube, complement
from pretrain.objectives import VideoMAE


def model(frames: int = 4, **encoder) -> VideoMAE:
    sizes = {"patch": 8, "tubelet": 2, "frames": frames, "size": 32}
    torch.manual_seed(0)
    return VideoMAE(
        VideoViT(48, 2, 3, 96, **{**sizes, **encoder}),
        PixelDecoder(48, 32, 1, 2, 64, **sizes),
        Tube(0.75),
        RunningCell(0.5),
    )


def video(frames: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, frames, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_masked_pixels_do_not_reach_the_encoder() -> None:
    m = model()
    clip = m.normalize(video())
    keep, _ = m.sample_masks(2, clip.device)
    hidden = complement(keep, 32)
    marked = clip.clone().requires_grad_()
    m.encoder(marked, keep).sum().backward()
    gradient = take_patches(marked.grad, hidden, 2, 8)
    assert gradient.abs().max() == 0
    assert take_patches(marked.grad, keep, 2, 8).abs().sum() > 0


def test_reading_fewer_tokens_changes_no_loss() -> None:
    m = model(frames=8).double()
    clip = m.normalize(video(frames=8))
    keep, predict = m.sample_masks(2, clip.device)
    full = m.reconstruction_loss(clip, keep, predict)
    limited = m.reconstruction_loss(clip, keep, predict, m.max_loss_tokens)
    assert m.max_loss_tokens < predict.shape[1]
    torch.testing.assert_close(full, limited)


def test_bytes_and_their_normalised_floats_have_one_target_and_loss() -> None:
    m = model()
    keep, predict = m.sample_masks(2, torch.device("cpu"))
    floats = m.normalize(video())
    torch.testing.assert_close(m.target(video(), predict), m.target(floats, predict), rtol=1e-5, atol=1e-5)
    losses = [m.reconstruction_loss(v, keep, predict) for v in (video(), floats)]
    torch.testing.assert_close(*losses)


def test_the_pixel_loss_has_the_gradient_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 2, 5, 7, dtype=torch.float64, generator=generator)
    weight = torch.tensor([[1.0, 1, 0, 1, 0], [1, 0, 1, 1, 1]], dtype=torch.float64)
    mine, plain = (prediction.clone().requires_grad_() for _ in range(2))
    loss = masked_mse(mine, target.clone(), weight)
    formula = (((plain - target) ** 2).mean(-1) * weight).sum() / weight.sum()
    torch.testing.assert_close(loss, formula)
    loss.backward()
    formula.backward()
    torch.testing.assert_close(mine.grad, plain.grad)


def test_a_perfect_prediction_shows_the_input() -> None:
    m = model()
    batch = {"video": video(), "name": ["a", "b"]}
    m.decoder.forward = lambda tokens, keep, predict, read=None: m.target(m.normalize(batch["video"]), predict)
    shown = m.reconstruct(batch)
    assert (shown["reconstruction"] - shown["input"]).abs().max() < 1e-4
    grey = (shown["seen"] - 0.5).abs() < 1e-6
    assert 0.7 < grey.float().mean() < 0.8


def test_without_a_decoder_mask_all_masked_tokens_are_decoded() -> None:
    m = model()
    m.decoder_mask = None
    keep, predict = m.sample_masks(2, torch.device("cpu"))
    assert keep.shape[1] + predict.shape[1] == 32


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VideoViT(48, 1, 3, 96, 7, 2, 4, 32), "image size 32 is not a multiple of the patch 7"),
        (lambda: VideoViT(48, 1, 3, 96, 8, 3, 4, 32), "4 frames are not a multiple of the tubelet 3"),
        (lambda: VideoViT(50, 1, 3, 96, 8, 2, 4, 32), "width 50 is not a multiple of heads 3"),
        (lambda: VideoViT(48, -1, 3, 96, 8, 2, 4, 32), "depth is -1: it must be at least 1"),
        (lambda: VideoViT(48, 1, 3, 0, 8, 2, 4, 32), "mlp is 0"),
        (lambda: VideoViT(48, 1, 3, 96, 8, 0, 4, 32), "tubelet is 0"),
        (lambda: PixelDecoder(48, 32, 0, 2, 64, 8, 2, 4, 32), "depth is 0"),
        (lambda: model(size=64), "encoder and decoder differ"),
        (lambda: model().encoder(torch.zeros(1, 3, 8, 32, 32)), "made for 4 frames of 32 x 32"),
        (
            lambda: VideoMAE(
                VideoViT(48, 1, 3, 96, 8, 2, 4, 24), PixelDecoder(48, 32, 1, 2, 64, 8, 2, 4, 24), Tube(), RunningCell()
            )({"video": torch.zeros(1, 3, 4, 24, 24)}),
            "even grid",
        ),
    ],
)
def test_sizes_that_do_not_fit_raise(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
