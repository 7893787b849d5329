"""Training: roles, stages and the loop that runs them."""
