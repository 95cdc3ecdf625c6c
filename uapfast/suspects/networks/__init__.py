"""Networks that are filled with the weights of one file after another."""
