"""Which suspects: a manifest, a folder, or paths as entries, and the list that they make."""
