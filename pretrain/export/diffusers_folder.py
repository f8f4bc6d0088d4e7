"""Writes a UNet as a folder of diffusers, which loads where this project is not installed.

It needs diffusers (`pip install -e '.[diffusion]'`).
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.storage.whole_files import whole_folder
from models.convert.diffusers_folder import PIPELINE, modeling_source
from models.diffusion.schedules import Kind
from models.diffusion.unet import SpatioTemporalUNet

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, PreTrainedTokenizerBase

_KINDS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def save_folder(
    unet: SpatioTemporalUNet,
    folder: Path,
    kind: Kind = "eps",
    vae: "AutoencoderKL | None" = None,
    text_encoder: "CLIPTextModel | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> None:
    """Write `model_index.json`, `unet/`, `scheduler/` and the given parts.

    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads them with nothing but diffusers (and
    transformers for a text encoder). The scheduler is LaVie's DDIM on linear betas. The folder appears whole or not at
    all.

    Raises:
        FileExistsError: the folder holds files already.
    """
    import diffusers

    from models.convert.modeling_lavie import TubeletUNet

    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds files already: name another folder")
    model = TubeletUNet(**unet.options)
    model.load_state_dict(unet.state_dict())
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
        prediction_type=_KINDS[kind],
    )
    parts: dict[str, Any] = {"unet": model, "scheduler": scheduler}
    parts |= {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
    index: dict[str, Any] = {"_class_name": ["pipeline_lavie", "TubeletPipeline"]}
    index["_diffusers_version"] = diffusers.__version__
    with whole_folder(folder) as draft:
        for name, part in parts.items():
            if part is not None:
                part.save_pretrained(draft / name)
            index[name] = [None, None] if part is None else [type(part).__module__.split(".")[0], type(part).__name__]
        index["unet"] = ["modeling_lavie", "TubeletUNet"]
        (draft / "unet/modeling_lavie.py").write_text(modeling_source())
        shutil.copyfile(PIPELINE, draft / PIPELINE.name)
        (draft / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
