"""The model `lungs-ct`."""
