"""Writes a UNet as a folder of diffusers, which loads where this project is not installed.

The file with the model's class is joined from the source of the network, so that there is only one. It needs diffusers
(`pip install tubelet[diffusion]`).
"""

import ast
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.diffusion.schedules import Kind
from models.diffusion.unet import SpatioTemporalUNet

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, PreTrainedTokenizerBase

_HERE = Path(__file__).parent
# In the order of their imports; each file uses only names of those before it.
_NETWORK = ("zero", "frames", "attention", "temporal_attention", "resblock", "transformer", "unet")
# In the place of models/layers.py: the list that is typed there, and attention without the choice of kernels.
_LAYERS = '''Blocks = nn.ModuleList


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of `[B, heads, N, d]`."""
    return F.scaled_dot_product_attention(q, k, v)
'''
_KINDS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def modeling_source() -> str:
    """The source of `modeling_lavie.py`: the network's files as one, without imports of this project."""
    files = [_HERE.parent / f"diffusion/{name}.py" for name in _NETWORK] + [_HERE / "modeling_lavie.py"]
    imports: dict[str, set[str]] = {}  # module, the names that are imported from it
    bodies = []
    for file in files:
        source = file.read_text()
        docstring, *rest = ast.parse(source).body
        start = docstring.end_lineno or 0
        for node in rest:
            if isinstance(node, ast.ImportFrom):
                imports.setdefault(f"from {node.module} import ", set()).update(alias.name for alias in node.names)
            elif isinstance(node, ast.Import):
                imports.setdefault(ast.unparse(node), set())
            else:
                break
            start = node.end_lineno or start
        bodies.append("".join(source.splitlines(keepends=True)[start:]).strip("\n"))
    lines = [stem + ", ".join(sorted(names)) for stem, names in sorted(imports.items()) if " models." not in stem]
    title = '"""The UNet of LaVie\'s family for diffusers, written by tubelet."""'
    return "\n\n\n".join(("\n".join((title, "", *lines)), _LAYERS.strip("\n"), *bodies)) + "\n"


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
    transformers for a text encoder). The scheduler is LaVie's DDIM on linear betas. The files are written one after
    another, `model_index.json` last; a caller that needs all or none gives a draft (`whole_folder`).

    Raises:
        FileExistsError: the folder has a pipeline already.
    """
    import diffusers

    from models.convert.modeling_lavie import TubeletUNet

    if (folder / "model_index.json").exists():
        raise FileExistsError(f"{folder} holds a pipeline already: name another folder")
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
    for name, part in parts.items():
        if part is not None:
            part.save_pretrained(folder / name)
        index[name] = [None, None] if part is None else [type(part).__module__.split(".")[0], type(part).__name__]
    index["unet"] = ["modeling_lavie", "TubeletUNet"]
    (folder / "unet/modeling_lavie.py").write_text(modeling_source())
    shutil.copyfile(_HERE / "pipeline_lavie.py", folder / "pipeline_lavie.py")
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")  # last: the folder is whole with it
