"""What runs a model: one file per kind of model package."""
