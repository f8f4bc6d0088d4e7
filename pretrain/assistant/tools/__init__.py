"""Tools of the assistant, a file for a kind of work: each has a schema of its arguments and says what it did."""
