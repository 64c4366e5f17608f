"""Whole-slide images: read by tiles, what part of one is meant, and outlines found on it."""
