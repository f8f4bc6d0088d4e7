"""VideoMAE V2: hide most of a video from the encoder, decode half of the rest, compare pixels (arXiv 2303.16727)."""

from typing import Any

import torch
from torch import Tensor

from models.decoders import PixelDecoder
from models.encoder import Encoder
from pretrain.learning.losses import masked_mse, pixel_target
from pretrain.learning.masking import Mask, RunningCell, Tube, complement, tokens_in_loss, unseen_first
from pretrain.objectives.objective import Batch, Objective


class VideoMAE(Objective):
    """Masked autoencoding with dual masking.

    Args:
        encoder, decoder: made for the same frames, size, patch and tubelet.
        mask: which tokens the encoder sees.
        decoder_mask: which tokens are decoded; None decodes all that are hidden, which is VideoMAE V1.
        normalize_target: predict pixels normalised a token and channel.
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
        self.encoder, self.decoder = encoder, decoder
        self.mask, self.decoder_mask = mask or Tube(), decoder_mask
        self.normalize_target = normalize_target
        self.read = tokens_in_loss(self.mask, decoder_mask, encoder.grid)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video = batch["video"]
        keep, predict = self.masks(video.shape[0], video.device)
        return {"pixels": self.reconstruction_loss(video, keep, predict, self.read)}

    def masks(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """What the encoder sees `[B, K]` and what is decoded `[B, M]`."""
        grid, generator = self.encoder.grid, self.generator(device)
        keep = self.mask(self.noise(generator, rows, self.mask.width(grid)), grid)
        if self.decoder_mask is None:
            return keep, complement(keep, self._tokens)
        return keep, self.decoder_mask(self.noise(generator, rows, self.decoder_mask.width(grid)), grid)

    def reconstruction_loss(self, video: Tensor, keep: Tensor, predict: Tensor, read: int | None = None) -> Tensor:
        """The loss over tokens that are decoded and hidden; `read` bounds how many of those a sample has.

        Of a uint8 `video` the normalised one is let go of when the encoder is done: the target does not need it.
        """
        predict, hidden = unseen_first(predict, keep, self._tokens)
        prediction = self.decoder(self.encoder(self.normalize(video), keep), keep, predict, read)
        return masked_mse(prediction, self.target(video, predict[:, :read]), hidden[:, :read])

    def target(self, video: Tensor, index: Tensor) -> Tensor:
        """The pixels `[B, M, tubelet * p * p * 3]` that tokens `index` stand for."""
        e, n = self.encoder, self.normalize
        return pixel_target(video, index, e.tubelet, e.patch, n.mean, n.std, self.normalize_target)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """The mean of all tokens, `features [B, D]`."""
        return {"features": self.encoder(self.normalize(batch["video"])).mean(dim=1)}

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Videos in [0, 1] to look at, `[B, C, T, H, W]`: `input`, what the encoder `seen`, and the `reconstruction`.

        Every hidden token is decoded; a normalised prediction is put back to the scale of the token that it stands for.
        """
        video = self.normalize(batch["video"])
        keep, _ = self.masks(video.shape[0], video.device)
        hidden = complement(keep, self._tokens)
        prediction = self.decoder(self.encoder(video, keep), keep, hidden).float()
        if self.normalize_target:
            raw = pixel_target(
                video, hidden, self.encoder.tubelet, self.encoder.patch, self.normalize.mean, self.normalize.std, False
            ).unflatten(2, (-1, 3))
            scaled = prediction.unflatten(2, (-1, 3)) * (raw.std(dim=2, keepdim=True) + 1e-6)
            prediction = (scaled + raw.mean(dim=2, keepdim=True)).flatten(2)
        mean, std = (x.view(3, 1, 1, 1) for x in (self.normalize.mean, self.normalize.std))
        shown = (video * std + mean).clamp(0, 1)
        return {
            "input": shown,
            "seen": self._paste(shown, hidden, torch.full_like(prediction, 0.5)),
            "reconstruction": self._paste(shown, hidden, prediction.clamp(0, 1)),
        }

    def _paste(self, video: Tensor, index: Tensor, pixels: Tensor) -> Tensor:
        """`video` with the tokens of `index` `[B, M]` replaced by `pixels` `[B, M, tubelet * p * p * 3]`."""
        e = self.encoder
        (_, h, w), out = e.grid, video.clone()
        cut = out.unflatten(4, (-1, e.patch)).unflatten(3, (-1, e.patch)).unflatten(2, (-1, e.tubelet))
        tokens = pixels.unflatten(2, (e.tubelet, e.patch, e.patch, 3)).permute(0, 1, 5, 2, 3, 4)
        rows = torch.arange(len(video), device=video.device)[:, None]
        cut[rows, :, index // (h * w), :, index // w % h, :, index % w] = tokens.to(out.dtype)
        return out

    @property
    def _tokens(self) -> int:
        t, h, w = self.encoder.grid
        return t * h * w
