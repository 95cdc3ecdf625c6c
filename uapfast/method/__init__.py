"""The method: perturbations, query points, fingerprints, encoders and the decision."""
