"""The model `body-mr`."""
