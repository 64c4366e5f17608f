"""Measurements: each module is a command, compares within one run and prints what it measured."""
