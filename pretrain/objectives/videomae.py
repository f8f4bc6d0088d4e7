"""VideoMAE V2: masked autoencoding with a masked encoder and a masked decoder (arXiv 2303.16727)."""

from typing import Any

import torch
from torch import Tensor

from models.decoders import PixelDecoder
from models.encoder import Encoder
from pretrain.learning.batch import Batch
from pretrain.learning.losses import masked_mse, pixel_target
from pretrain.learning.masking import Mask, RunningCell, Tube, complement, masked_first, max_loss_tokens
from pretrain.objectives.objective import Objective


class VideoMAE(Objective):
    """Reconstruct the pixels of masked tokens.

    Args:
        encoder, decoder: with equal frames, size, patch and tubelet.
        mask: selects the tokens that are visible to the encoder.
        decoder_mask: selects the tokens that are decoded; None: all masked tokens, as in VideoMAE V1.
        normalize_target: predict pixels normalised per token and channel.
        base: see `Objective`.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: PixelDecoder,
        mask: Mask | None = None,
        decoder_mask: RunningCell | None = None,
        normalize_target: bool = True,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if decoder.positions.grid != encoder.grid or decoder.embed.in_features != encoder.width:
            raise ValueError(
                f"encoder and decoder differ: token grid {encoder.grid} and {decoder.positions.grid}, "
                f"width {encoder.width} and {decoder.embed.in_features} (encoder_width)"
            )
        self.encoder, self.decoder = self.with_statistics(encoder), decoder
        self.mask, self.decoder_mask = mask or Tube(), decoder_mask
        self.normalize_target = normalize_target
        self.max_loss_tokens = max_loss_tokens(self.mask, decoder_mask, encoder.grid)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video = batch["video"]
        keep, predict = self.sample_masks(video.shape[0], video.device)
        return {"pixels": self.reconstruction_loss(video, keep, predict, self.max_loss_tokens)}

    def sample_masks(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The indices of the visible tokens, `[B, K]`, and of the decoded tokens, `[B, M]`."""
        grid, generator = self.encoder.grid, self.generator(device)
        keep = self.mask(self.noise(generator, rows, self.mask.width(grid)), grid)
        if self.decoder_mask is None:
            return keep, complement(keep, self.num_tokens)
        return keep, self.decoder_mask(self.noise(generator, rows, self.decoder_mask.width(grid)), grid)

    def reconstruction_loss(self, video: Tensor, keep: Tensor, predict: Tensor, limit: int | None = None) -> Tensor:
        """The loss over the tokens that are decoded and masked; `limit` is an upper bound on their number per sample.

        The encoder takes the visible patches of a uint8 `video` as bytes and normalises them; the target is computed
        from uint8 too.
        """
        predict, masked = masked_first(predict, keep, self.num_tokens)
        prediction = self.decoder(self.encoder(video, keep), keep, predict, limit)
        return masked_mse(prediction, self.target(video, predict[:, :limit]), masked[:, :limit])

    def target(self, video: Tensor, index: Tensor) -> Tensor:
        """The pixels `[B, M, tubelet * p * p * 3]` of the tokens `index` `[B, M]`."""
        e, n = self.encoder, self.normalize
        return pixel_target(video, index, e.tubelet, e.patch, n.mean, n.std, self.normalize_target)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """The mean of all tokens, `features [B, D]`."""
        return {"features": self.encoder(self.normalize(batch["video"])).mean(dim=1)}

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Videos in [0, 1] for display, `[B, C, T, H, W]`: `input`, its visible tokens `seen`, and `reconstruction`.

        All masked tokens are decoded; a normalised prediction is scaled back by the statistics of its token.
        """
        video = self.normalize(batch["video"])
        keep, _ = self.sample_masks(video.shape[0], video.device)
        masked = complement(keep, self.num_tokens)
        prediction = self.decoder(self.encoder(video, keep), keep, masked).float()
        if self.normalize_target:
            raw = pixel_target(
                video, masked, self.encoder.tubelet, self.encoder.patch, self.normalize.mean, self.normalize.std, False
            ).unflatten(2, (-1, 3))
            scaled = prediction.unflatten(2, (-1, 3)) * (raw.std(dim=2, keepdim=True) + 1e-6)
            prediction = (scaled + raw.mean(dim=2, keepdim=True)).flatten(2)
        mean, std = (x.view(3, 1, 1, 1) for x in (self.normalize.mean, self.normalize.std))
        shown = (video * std + mean).clamp(0, 1)
        return {
            "input": shown,
            "seen": self._paste(shown, masked, torch.full_like(prediction, 0.5)),
            "reconstruction": self._paste(shown, masked, prediction.clamp(0, 1)),
        }

    def _paste(self, video: Tensor, index: Tensor, pixels: Tensor) -> Tensor:
        """`video` with the tokens `index` `[B, M]` replaced by `pixels` `[B, M, tubelet * p * p * 3]`."""
        e = self.encoder
        (_, h, w), out = e.grid, video.clone()
        cut = out.unflatten(4, (-1, e.patch)).unflatten(3, (-1, e.patch)).unflatten(2, (-1, e.tubelet))
        tokens = pixels.unflatten(2, (e.tubelet, e.patch, e.patch, 3)).permute(0, 1, 5, 2, 3, 4)
        rows = torch.arange(len(video), device=video.device)[:, None]
        cut[rows, :, index // (h * w), :, index // w % h, :, index % w] = tokens.to(out.dtype)
        return out

    @property
    def num_tokens(self) -> int:
        t, h, w = self.encoder.grid
        return t * h * w
