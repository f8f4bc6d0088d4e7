"""The source of the file with which a UNet's folder of diffusers loads where this project is not installed.

It is joined from the source of the network, so that there is only one; `pretrain.export.diffusers_folder` writes it.
"""

import ast
from pathlib import Path

_HERE = Path(__file__).parent
# In the order of their imports; each file uses only names of those before it.
_DIFFUSION = (
    "zero",
    "frames",
    "attention",
    "temporal_attention",
    "lean_layers",
    "convolution",
    "resblock",
    "transformer",
    "unet",
)
_NETWORK = ("autograd_state", *(f"diffusion/{name}" for name in _DIFFUSION), "convert/modeling_lavie")
# In the place of models/layers.py: the list that is typed there, and attention without the choice of kernels.
_LAYERS = '''Blocks = nn.ModuleList


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of `[B, heads, N, d]`."""
    return F.scaled_dot_product_attention(q, k, v)
'''
PIPELINE = _HERE / "pipeline_lavie.py"


def modeling_source() -> str:
    """The source of `modeling_lavie.py`: the network's files as one, without imports of this project."""
    files = [_HERE.parent / f"{name}.py" for name in _NETWORK]
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
