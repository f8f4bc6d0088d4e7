"""Words of the demo's tiny chat model: those of its recipe, and read as people write them ("What colour is it?")."""

import shutil
from pathlib import Path

import yaml

from datamodules.storage.whole_files import write_whole

RECIPE = "videochat2_instruct_tiny"
STEPS = 400  # a minute and a half of a core
CONTEXT = 1024  # tokens: the assistant asks for answers of up to 512, and tells where objects are


def write_tokenizer(source: Path, folder: Path) -> Path:
    """Copy a tokenizer of single words so that capitals at the beginning and marks at the end of a word do no harm.

    Args:
        source: folder of the recipe's tokenizer, which knows small words with spaces between them and marks.

    Returns:
        The copy's folder, `folder` itself.
    """
    from tokenizers import Regex, Tokenizer, normalizers

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer_config.json", "bert.txt"):
        shutil.copyfile(source / name, folder / name)
    words = Tokenizer.from_file(str(source / "tokenizer.json"))
    small = sorted(word for word in words.get_vocab() if word.isalpha() and word.islower())
    plain = [normalizers.Replace(Regex(rf"\b{word.capitalize()}\b"), word) for word in small]
    plain += [normalizers.Replace(mark, f" {mark}") for mark in "?."]
    words.normalizer = normalizers.Sequence(plain)
    words.save(str(folder / "tokenizer.json"))
    return folder


def is_trained(folder: Path) -> bool:
    """Whether the training that began in a folder has come to its end."""
    recipe = folder / f"{RECIPE}.yaml"
    if not recipe.exists():
        return False
    last = yaml.safe_load(recipe.read_text())["trainer"]["max_steps"]
    return any(int(path.stem.partition("=")[2]) == last for path in folder.glob(f"{RECIPE}/checkpoints/step=*.ckpt"))


def training(root: Path, folder: Path) -> list[str]:
    """Arguments of `python -m pretrain` that train the model in a folder, or go on with it."""
    recipe = yaml.safe_load((root / f"recipes/{RECIPE}.yaml").read_text())
    language = recipe["model"]["init_args"]["language"]
    language["tokenizer"] = str(write_tokenizer(root / language["tokenizer"], folder / "words"))
    language["config"]["max_position_embeddings"] = CONTEXT
    recipe["trainer"]["max_steps"] = STEPS
    write_whole(folder / f"{RECIPE}.yaml", yaml.safe_dump(recipe))
    save = f"--trainer.logger.save_dir={folder}"
    return ["fit", "-c", str(folder / f"{RECIPE}.yaml"), save, "--ckpt_path=auto"]
