"""Training: objectives, optimisation, metrics, callbacks, exports and the command line."""
