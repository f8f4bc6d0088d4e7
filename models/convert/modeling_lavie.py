"""The UNet as a model of diffusers; copied beside exported weights, behind the source of the network."""

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from models.diffusion.unet import SpatioTemporalUNet


class TubeletUNet(SpatioTemporalUNet, ModelMixin, ConfigMixin):
    """`SpatioTemporalUNet` with diffusers' `from_pretrained` and `save_pretrained`."""

    __init__ = register_to_config(SpatioTemporalUNet.__init__)
