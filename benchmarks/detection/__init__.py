"""Detection on models that nothing was tuned on: the zoo, the baselines, the table."""
