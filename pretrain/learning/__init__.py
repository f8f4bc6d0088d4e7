"""What methods share: masks, losses, teachers, optimiser, randomness."""
