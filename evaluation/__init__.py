"""Experiments: every image of a data set -> files, reconstructions, results (`loop.py`)."""
