"""The weights of VBench's models: source, licence and hash of each, and where they lie on this machine.

Nothing is downloaded. A file lies where VBench's own cache has it (in a given folder, that of the variable
VBENCH_CACHE_DIR, or ~/.cache/vbench), or wherever the user says.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from models.convert.read import read_tensors
from models.fetch import sha256


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    file: under the cache folder. sha256: of the whole file, or its first digits where its publisher states only those;
    empty: not stated by its publisher. licence: of the repository that publishes the file.
    """

    file: str
    source: str
    licence: str
    sha256: str = ""


_HUB = "https://huggingface.co/OpenGVLab/VBench_Used_Models/resolve/main"
_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_B32 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
_L14 = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
UNSTATED = "not stated with the file"

WEIGHTS: dict[str, Weights] = {
    "clip_b32": Weights("clip_model/ViT-B-32.pt", f"{_OPENAI}/{_B32}/ViT-B-32.pt", "MIT", _B32),
    "clip_l14": Weights("clip_model/ViT-L-14.pt", f"{_OPENAI}/{_L14}/ViT-L-14.pt", "MIT", _L14),
    "dino": Weights(
        "dino_model/dino_vitbase16_pretrain.pth",
        "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        "Apache-2.0",
    ),
    "raft": Weights(
        "raft_model/models/raft-things.pth",
        "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip (or torchvision's raft_large C_T_V1)",
        "BSD-3-Clause",
    ),
    "aesthetic": Weights(
        "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
        "https://github.com/LAION-AI/aesthetic-predictor/blob/main/sa_0_4_vit_l_14_linear.pth?raw=true",
        "MIT",
    ),
    "musiq": Weights(
        "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
        "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
        "PolyForm-Noncommercial-1.0.0 (converted from google-research's, Apache-2.0)",
    ),
    "viclip": Weights("ViCLIP/ViClip-InternVid-10M-FLT.pth", f"{_HUB}/ViClip-InternVid-10M-FLT.pth", UNSTATED),
    "umt": Weights(
        "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",
        f"{_HUB}/l16_ptk710_ftk710_ftk400_f16_res224.pth",
        UNSTATED,
    ),
    "amt": Weights(
        "amt_model/amt-s.pth", "https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth", "CC BY-NC 4.0"
    ),
    "grit": Weights(
        "grit_model/grit_b_densecap_objectdet.pth",
        "https://datarelease.blob.core.windows.net/grit/models/grit_b_densecap_objectdet.pth",
        UNSTATED,
    ),
    "tag2text": Weights(
        "caption_model/tag2text_swin_14m.pth",
        "https://huggingface.co/spaces/xinyu1205/recognize-anything/resolve/main/tag2text_swin_14m.pth",
        UNSTATED,
    ),
}


def cache_folder(folder: str | Path | None = None) -> Path:
    """The folder of weights: the given one, VBENCH_CACHE_DIR, or ~/.cache/vbench."""
    return Path(folder or os.environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache/vbench")


def locate(name: str, folder: str | Path | None = None, given: Mapping[str, str | Path] | None = None) -> Path:
    """The path of weights by their name in WEIGHTS; `given` paths come first.

    Raises:
        FileNotFoundError: with the place and the source.
    """
    wanted = WEIGHTS[name]
    path = Path(given[name]) if given and name in given else cache_folder(folder) / wanted.file
    if not path.exists():
        raise FileNotFoundError(f"the weights {name} are not at {path}: put them there; source {wanted.source}")
    return path


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of weights; also before another package's own reader, which may unpickle what it holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds more than tensors and plain values.
    """
    return read_tensors(path)


def absent(
    names: Iterable[str], folder: str | Path | None = None, given: Mapping[str, str | Path] | None = None
) -> list[str]:
    """A sentence for each weights that are not there."""
    found = []
    for name in names:
        try:
            locate(name, folder, given)
        except FileNotFoundError as error:
            found.append(str(error))
    return found


def check(name: str, path: Path) -> Path:
    """The path, if the file has the hash that its publisher states, or none is stated; ValueError if it has another."""
    stated = WEIGHTS[name].sha256
    if stated:
        found = sha256(path)
        if not found.startswith(stated):
            raise ValueError(
                f"{path} has the sha256 {found}, and its publisher states {stated}: fetch it again from "
                f"{WEIGHTS[name].source}, or name it as your own weights of {name}"
            )
    return path
