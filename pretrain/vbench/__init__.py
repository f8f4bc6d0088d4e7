"""VBench's command: the protocol, processes, comparisons of results, and the page."""
