"""Tasks, models and blobs, kept durably."""
