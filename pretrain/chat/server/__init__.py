"""A server of OpenAI's chat completions about videos; every part of a request may be hostile."""
