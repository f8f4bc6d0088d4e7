"""The tools of an assistant: all of them, also those whose model is missing, which say so."""

from collections.abc import Mapping
from types import MappingProxyType

from pretrain.assistant.tools import cutting, describing, generating, pointing, reading, recognising
from pretrain.assistant.tools.tool import Tool


def toolbox(*more: tuple[Tool, ...]) -> Mapping[str, Tool]:
    """Tools by name: those without models, and of `more`, the first of a name counts.

    `more` are what `describing.tools`, `reading.tools`, `recognising.tools` and `generating.tools` give with models.
    """
    groups = (*more, pointing.TOOLS, cutting.TOOLS, describing.tools(), reading.tools(), recognising.tools())
    found: dict[str, Tool] = {}
    for tool in (tool for group in (*groups, generating.tools()) for tool in group):
        found.setdefault(tool.name, tool)
    return MappingProxyType(found)
