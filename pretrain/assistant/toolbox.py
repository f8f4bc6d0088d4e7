"""The tools of an assistant: all of them, also those whose model is missing, which say so."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from datamodules.making.captions import Captioner, ImageToText, load_captioner
from pretrain.assistant.door import Door
from pretrain.assistant.tools import cutting, describing, generating, pointing, reading, recognising
from pretrain.assistant.tools.tool import Tool
from pretrain.generation.cascade import Cascade


def toolbox(*more: tuple[Tool, ...]) -> Mapping[str, Tool]:
    """Tools by name: those without models, and of `more`, the first of a name counts.

    `more` are what `describing.tools`, `reading.tools`, `recognising.tools` and `generating.tools` give with models.
    """
    groups = (*more, pointing.TOOLS, cutting.TOOLS, describing.tools(), reading.tools(), recognising.tools())
    found: dict[str, Tool] = {}
    for tool in (tool for group in (*groups, generating.tools()) for tool in group):
        found.setdefault(tool.name, tool)
    return MappingProxyType(found)


def load_toolbox(
    chat: Door | None = None,
    captioner: str | None = None,
    classifier: str | None = None,
    index: str | None = None,
    lavie: str | None = None,
    editor: str | None = None,
    device: str = "cpu",
    pointing: Sequence[str] = describing.TOLD,
) -> Mapping[str, Tool]:
    """Tools with the models of files.

    Args:
        chat: the door to a chat model.
        captioner: the folder of an image captioning model of transformers, or `package.module:Class`.
        classifier: a run or checkpoint of `Classify`.
        index: a folder of features that can be searched by text.
        lavie: a folder of LaVie's weights, see `pretrain.generation.weights.find`.
        editor: a folder of an inpainting pipeline of diffusers.
        device: of the networks.
        pointing: how the chat model is told of objects, see `describing.POINTING`.

    Raises:
        OSError, ValueError: one of them is not there, damaged, or of another kind.
    """
    cascade = Cascade(Path(lavie), ("base", "interpolation", "vsr"), device, progress=False) if lavie else None
    return toolbox(
        describing.tools(chat, _captioner(captioner), pointing),
        recognising.tools(
            recognising.load_recogniser(classifier, device) if classifier else None,
            recognising.load_finder(Path(index)) if index else None,
        ),
        generating.tools(cascade, {}, generating.DiffusersEditor(Path(editor), device=device) if editor else None),
    )


def _captioner(name: str | None) -> Captioner | None:
    if name is None:
        return None
    return ImageToText(name) if Path(name).is_dir() else load_captioner(name)
