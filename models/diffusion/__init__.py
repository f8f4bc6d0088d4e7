"""Latent video diffusion: the spatio-temporal UNet, noise schedules and samplers; nothing about training."""

from models.diffusion.unet import UNET_SIZES, SpatioTemporalUNet, is_temporal

__all__ = ["UNET_SIZES", "SpatioTemporalUNet", "is_temporal"]
