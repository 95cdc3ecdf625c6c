"""A suspect is anything that answers: modules, callables, checkpoints, architecture specs."""
