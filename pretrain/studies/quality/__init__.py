"""What pretraining buys: each method's tiny recipe, and what its features are worth after more and more steps."""
