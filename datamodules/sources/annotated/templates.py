"""Text with fields of a row in braces, such as `{youtube_id}_{time_start:06d}`."""

import string


class Template:
    """Text with fields of a row in braces: `{youtube_id}_{time_start:06d}`. A format that ends in d takes a number.

    ValueError where the braces do not match, or (when it is filled) a row lacks a field.
    """

    def __init__(self, text: str) -> None:
        try:
            self.parts = [(literal, field, spec) for literal, field, spec, _ in string.Formatter().parse(text)]
        except ValueError as error:
            raise ValueError(f"the template {text!r} is none: {error}") from None
        self.text, self.fields = text, [field for _, field, _ in self.parts if field is not None]
        self.single = self.fields[0] if text == f"{{{''.join(self.fields)}}}" and len(self.parts) == 1 else None

    def __call__(self, row: dict) -> str:
        """The text filled from `row`; an absent value (null) is empty."""
        made = ""
        for literal, field, spec in self.parts:
            made += literal
            if field is not None:
                value = get(row, field)
                made += value if value.__class__ is str and not spec else _formatted(field, value, spec)
        return made

    def value(self, row: dict) -> object:
        """As filled, but where the template is nothing but one field that holds a list: that list."""
        if self.single is not None and isinstance(value := get(row, self.single), list):
            return value
        return self(row)


def get(row: dict, field: str) -> object:
    """The value of a row's field; ValueError names those that there are."""
    if field not in row:
        raise ValueError(f"no field {field!r}; there are {', '.join(map(repr, row)) or 'none'}")
    return row[field]


def _formatted(field: str, value: object, spec: str | None) -> str:
    if spec and spec.endswith("d"):
        try:
            return format(int(value if str(value).isdecimal() else float(value)), spec)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{field} is {value!r}, which is no number") from None
    if isinstance(value, (list, dict)):
        raise ValueError(f"{field} holds {'a list' if isinstance(value, list) else 'an object'}, not one value")
    return "" if value is None else format(str(value), spec or "")
