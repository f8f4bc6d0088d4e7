"""Multiplications and additions, two a pair, of the products that transformers are made of."""


def linears(tokens: int, width: int, mlp: int) -> float:
    """A block's projections and MLP over `tokens`."""
    return 2.0 * tokens * (4 * width**2 + 2 * width * mlp)


def attention(queries: int, keys: int, width: int) -> float:
    """Scores and weighted sums of a block for one sequence."""
    return 4.0 * queries * keys * width


def blocks(tokens: int, width: int, mlp: int, depth: int) -> float:
    """`depth` blocks over one sequence of `tokens`."""
    return depth * (linears(tokens, width, mlp) + attention(tokens, tokens, width))


def last_block(read: int, tokens: int, width: int, mlp: int) -> float:
    """A block of whose output only `read` of `tokens` are used: keys and values of all, the rest of those."""
    rest = 2.0 * read * (2 * width**2 + 2 * width * mlp)
    return 2.0 * tokens * 2 * width**2 + rest + attention(read, tokens, width)
