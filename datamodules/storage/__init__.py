"""Files that are written whole or not at all, and places that one writer at a time may use."""
