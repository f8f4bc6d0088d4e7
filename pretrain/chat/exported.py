"""A chat model from a folder that `export --to transformers` wrote: our own code reads it, none in it is run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from models.chat.language_model import language_model
from models.chat.qformer import QFormer
from models.chat.templates import ChatTemplate, Mistral, Phi3, Vicuna
from models.chat.tokenizer_template import TokenizerTemplate
from models.chat.videochat import VideoChat
from models.convert.read import read_tensors
from models.tokenizers import BertTokenizer, Tokenizer
from models.vit import VideoViT
from pretrain.export.chat_layouts import LAYOUTS, layout

_CONFIG, _ADAPTER = "config.json", "adapter_config.json"
_LAYER_SCALE = 1e-5  # any: the folder has its weights


class Exported(NamedTuple):
    """The parts of a folder; see `pretrain.chat.assistant.Assistant`."""

    model: VideoChat
    tokenizer: Any
    template: ChatTemplate
    reader: Tokenizer | None
    frames: int
    mean: list[float]
    std: list[float]


class StoredPieces(BertTokenizer):
    """BERT's word pieces of a vocabulary in the order of its ids."""

    def __init__(self, words: Sequence[str], context: int) -> None:
        from transformers import BertTokenizerFast  # pyrefly: ignore[missing-module-attribute] a lazy alias in version 5

        super().__init__("", context)
        self._stored = BertTokenizerFast({word: i for i, word in enumerate(words)})

    @property
    def _pieces(self) -> Any:
        return self._stored


def is_exported(path: str) -> bool:
    """Whether it is such a folder, or the one inside it with the adapters of the language model."""
    folder = Path(path)
    return (folder / _ADAPTER).is_file() or _read(folder / _CONFIG).get("model_type") == "tubelet_chat"


def load_exported(path: str, dtype: torch.dtype = torch.float32) -> Exported:
    """The parts of an exported chat model. Of the folder with its adapters, in peft's layout, the language model that
    they were trained on is read, and they are merged into it.

    Raises:
        ValueError: the folder is not whole, has a chat template of another origin, or its adapters stand on a language
            model that is not here.
        FileNotFoundError: a file is missing.
    """
    folder = Path(path)
    adapter = folder if (folder / _ADAPTER).is_file() else None
    folder = folder.parent if adapter else folder
    from transformers import PreTrainedTokenizerFast

    from models.convert.modeling_videochat import TubeletChatConfig

    config: Any = TubeletChatConfig.from_pretrained(str(folder))
    state = read_tensors(folder)
    own = {name.removeprefix("language_model."): t for name, t in state.items() if name.startswith("language_model.")}
    llm = _with_adapter(adapter, dtype) if adapter else _language_model(config.text_config, own, dtype)
    model = _model(config, llm)
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("language_model.")}
    _fill(model, rest, folder)
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(str(folder))
    processor = {**_read(folder / "processor_config.json"), **_read(folder / "preprocessor_config.json")}
    video = processor.get("video_processor") or _read(folder / "video_preprocessor_config.json")
    if "image_mean" not in video or "qformer_context" not in processor:
        raise ValueError(f"{folder} has no processor of a chat model: export it from a run whose evaluation has one")
    pad = tokenizer.convert_ids_to_tokens(processor["pad_token_id"])
    tokenizer.pad_token = pad
    words = processor["qformer_vocabulary"]
    reader = None if words is None else StoredPieces(words, processor["qformer_context"])
    template = _template(tokenizer, folder)
    return Exported(model, tokenizer, template, reader, video["num_frames"], video["image_mean"], video["image_std"])


def _model(config: Any, llm: Any) -> VideoChat:
    v, q = config.vision_config, config.qformer_config
    made_for = getattr(v, "made_for", None)  # of fixed positions
    encoder = VideoViT(
        *(v.hidden_size, v.num_hidden_layers, v.num_attention_heads, v.intermediate_size, v.patch_size, v.tubelet_size),
        *(v.num_frames, v.image_size),
        layer_scale=_LAYER_SCALE if v.layer_scale else 0.0,
        norm=v.final_norm,
        made_for=None if made_for is None else tuple(made_for),
        learn_positions=made_for is None,
    )
    former = QFormer(
        *(q.hidden_size, q.num_hidden_layers, q.num_attention_heads, q.intermediate_size, q.encoder_hidden_size),
        cross_every=q.cross_attention_frequency,
        vocabulary=q.vocab_size,
        context=q.max_position_embeddings,
        text=config.reads,
    )
    return VideoChat(encoder, former, llm, config.queries, 0, config.norm_eps)


def _fill(model: VideoChat, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Load all but the language model. ValueError if something is missing or left over."""
    image = state.pop("encoder.image_positions", None)
    ours = {name.replace("qformer.encoder.layer.", "qformer.layers."): tensor for name, tensor in state.items()}
    own = model.state_dict()
    if "encoder.positions.table" not in own:  # fixed, and made for the same grid: it is computed
        ours.pop("encoder.positions.table", None)
    expected = {name for name in own if not name.startswith("llm.")}
    wrong = sorted(expected ^ ours.keys()) or sorted(n for n in expected if ours[n].shape != own[n].shape)
    if wrong or image is None:
        raise ValueError(
            f"the weights in {folder} are not of the model in its config.json: look at {(*wrong, 'it')[0]}"
        )
    model.load_state_dict(ours, strict=False)
    if not torch.allclose(image, model.encoder.positions.of_image(), atol=1e-6):  # pyrefly: ignore[missing-attribute]
        raise ValueError(
            f"{folder} was written by an earlier version, without the grid of its positions: export it again"
        )


def _language_model(config: Any, state: dict[str, torch.Tensor], dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    llm: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    llm.load_state_dict(state)
    return llm


def _with_adapter(adapter: Path, dtype: torch.dtype) -> Any:
    """The language model that an adapter names, with the adapter merged."""
    from peft import PeftModel

    base = _read(adapter / _ADAPTER).get("base_model_name_or_path") or ""
    if not (base and Path(base).is_dir()):
        raise ValueError(
            f"the adapters in {adapter} stand on the language model {base!r}, which is no folder here: set "
            f"base_model_name_or_path in its {_ADAPTER}, or give {adapter.parent}, where they are merged"
        )
    adapted: Any = PeftModel.from_pretrained(language_model(base, dtype), str(adapter))  # pyrefly: ignore[bad-argument-type]
    return adapted.merge_and_unload()


def _template(tokenizer: Any, folder: Path) -> ChatTemplate:
    """The template whose layout the folder's is."""
    file = folder / "chat_template.jinja"
    found = file.read_text() if file.is_file() else ""
    made: dict[str, Any] = {"vicuna": Vicuna(), "mistral": Mistral(), "phi3": Phi3()}
    for name, template in made.items():
        if found == LAYOUTS[name]:
            return template
    own = found.removeprefix(layout("tokenizer", ""))
    if not found or own == found:
        raise ValueError(f"the chat template of {folder} is none of ours: export the model again, or do not change it")
    tokenizer.chat_template = own
    return TokenizerTemplate(tokenizer)


def _read(file: Path) -> dict[str, Any]:
    """A file of JSON; empty if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    return found if isinstance(found, dict) else {}
