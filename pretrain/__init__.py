"""How it is taught: objectives, optimisation, callbacks and the command line."""
