"""VideoChat2's chat layouts as templates of transformers (jinja), with `<visual>` in the place of a medium."""

_WORDS = """{%- macro words(m) -%}{%- if m.content is string -%}{{ m.content }}{%- else -%}
{%- for part in m.content -%}{%- if part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}
{%- endif -%}{%- endmacro -%}
{%- macro media(m) -%}{%- if m.content is not string -%}{%- for part in m.content -%}
{%- if part.type == 'video' -%}{{ '<Video><visual></Video>' }}
{%- elif part.type == 'image' -%}{{ '<Image><visual></Image>' }}
{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}
"""
_VICUNA = """{%- set closed = namespace(is=false) -%}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{{ words(m) ~ ' ' }}
{%- elif m.role == 'user' -%}
{%- if media(m) -%}
{{ ('Human: ' if closed.is else '###Human: ') ~ media(m) ~ ' ' }}{%- set closed.is = false -%}
{%- endif -%}
{%- if words(m) or not media(m) -%}
{{ ('Human: ' if closed.is else '###Human: ') ~ words(m) ~ ' ' }}{%- set closed.is = false -%}{%- endif -%}
{{ '###Assistant:' }}
{%- else -%}{{ ' ' ~ words(m) ~ ' ###' }}{%- set closed.is = true -%}
{%- endif -%}{%- endfor -%}"""
_MISTRAL = """{%- set seen = namespace(turns=0, system=false) -%}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{{ words(m) ~ ' ' }}{%- set seen.system = true -%}
{%- elif m.role == 'user' -%}
{%- if seen.turns -%}{{ ' ' }}{%- elif seen.system and not media(m) -%}{{ ' ' }}{%- endif -%}
{%- set seen.turns = seen.turns + 1 -%}
{%- set answered = not loop.last -%}
{%- if media(m) -%}{{ '[INST] ' ~ media(m) ~ ' [/INST]' ~ (' ' if words(m) or answered else '') }}{%- endif -%}
{%- if words(m) -%}{{ '[INST] ' ~ words(m) ~ ' [/INST]' ~ (' ' if answered else '') }}{%- endif -%}
{%- else -%}{{ words(m) ~ ' </s>' }}
{%- endif -%}{%- endfor -%}"""
_PHI3 = """{%- set seen = namespace(turns=0) -%}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{{ '<|system|>\\n' ~ words(m) ~ '<|end|>\\n' }}
{%- elif m.role == 'user' -%}{{ ('\\n' if seen.turns else '') ~ '<|user|>\\n' }}
{%- set seen.turns = seen.turns + 1 -%}
{%- if media(m) -%}{{ media(m) ~ '\\n' }}{%- endif -%}
{{ words(m) ~ '<|end|>\\n<|assistant|>\\n' }}
{%- else -%}{{ words(m) ~ '<|end|>' }}
{%- endif -%}{%- endfor -%}"""
_OWN = """{%- set flat = namespace(messages=[]) -%}{%- for m in messages -%}
{%- set content = media(m) ~ ('\\n' if media(m) else '') ~ words(m) -%}
{%- set flat.messages = flat.messages + [{'role': m.role, 'content': content}] -%}
{%- endfor -%}{%- set messages = flat.messages -%}"""
LAYOUTS: dict[str, str] = {"vicuna": _WORDS + _VICUNA, "mistral": _WORDS + _MISTRAL, "phi3": _WORDS + _PHI3}


def layout(template: str, own: str | None) -> str:
    """The jinja template of a layout's name; `tokenizer`: that of the tokenizer, `own`, with media in the text."""
    return LAYOUTS[template] if template in LAYOUTS else _WORDS + _OWN + (own or "")
