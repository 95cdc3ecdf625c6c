"""Wrong ways to ask x kinds of suspect x pools: the share of silent wrong verdicts."""
