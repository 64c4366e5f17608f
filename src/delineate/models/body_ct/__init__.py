"""The model `body-ct`."""
