"""Surrogate pools: recipes, training, manifests."""
