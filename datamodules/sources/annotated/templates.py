"""Text with fields of a row in braces, such as `{youtube_id}_{time_start:06d}`."""

import string
from typing import Any


class Template:
    """Text with fields of a row in braces: `{youtube_id}_{time_start:06d}`. A format that ends in d takes a number.

    ValueError if the braces do not match or, when the template is filled, if a row lacks a field.
    """

    def __init__(self, text: str) -> None:
        try:
            self.parts = [(literal, field, spec) for literal, field, spec, _ in string.Formatter().parse(text)]
        except ValueError as error:
            raise ValueError(f"{text!r} is not a valid template: {error}") from None
        self.text, self.fields = text, [field for _, field, _ in self.parts if field is not None]
        self.single = self.fields[0] if text == f"{{{''.join(self.fields)}}}" and len(self.parts) == 1 else None

    def __call__(self, row: dict) -> str:
        """The text filled from `row`; null becomes the empty string."""
        filled = ""
        for literal, field, spec in self.parts:
            filled += literal
            if field is not None:
                value = get(row, field)
                filled += value if value.__class__ is str and not spec else _formatted(field, value, spec)
        return filled

    def value(self, row: dict) -> str | list:
        """The filled text or, if the template is a single field that holds a list, that list."""
        if self.single is not None and isinstance(value := get(row, self.single), list):
            return value
        return self(row)


def get(row: dict, field: str) -> Any:
    """The value of a row's field; if it is missing, the ValueError lists the row's fields."""
    if field not in row:
        raise ValueError(f"no field {field!r}; there are {', '.join(map(repr, row)) or 'none'}")
    return row[field]


def _formatted(field: str, value: Any, spec: str | None) -> str:
    if spec and spec.endswith("d"):
        try:
            return format(int(value if str(value).isdecimal() else float(value)), spec)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{field} is {value!r}, which is not a number") from None
    if isinstance(value, (list, dict)):
        raise ValueError(f"{field} holds {'a list' if isinstance(value, list) else 'an object'}, not one value")
    return "" if value is None else format(str(value), spec or "")
