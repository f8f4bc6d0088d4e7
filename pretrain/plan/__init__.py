"""Cost of a training run, estimated before machines are booked."""
