"""Which worker asks which suspect, and where workers run: threads of this process, or a Ray cluster."""
