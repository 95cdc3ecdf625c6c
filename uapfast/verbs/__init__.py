"""The public verbs, one module each. Orchestration only; the package exports the functions.

They do not lie at the top level because ``uapfast.encode`` must be the function, and importing a
module of that name would bind the module in its place.
"""
