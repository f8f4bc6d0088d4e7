"""FLOPs of a transformer's matrix products in the forward pass; a multiplication and an addition are two."""


def linears(tokens: int, width: int, mlp: int) -> float:
    """Projections and MLP of one block for `tokens` tokens."""
    return 2.0 * tokens * (4 * width**2 + 2 * width * mlp)


def attention(queries: int, keys: int, width: int) -> float:
    """Attention scores and weighted sums of one block for one sequence."""
    return 4.0 * queries * keys * width


def blocks(tokens: int, width: int, mlp: int, depth: int) -> float:
    """`depth` blocks for one sequence of `tokens` tokens."""
    return depth * (linears(tokens, width, mlp) + attention(tokens, tokens, width))


def last_block(read: int, tokens: int, width: int, mlp: int) -> float:
    """A block that outputs only `read` of its `tokens` tokens: keys and values of all, everything else of those."""
    rest = 2.0 * read * (2 * width**2 + 2 * width * mlp)
    return 2.0 * tokens * 2 * width**2 + rest + attention(read, tokens, width)
