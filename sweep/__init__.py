"""Grids of experiments. Above `probe` and `evaluate`: a grid cannot meet in files."""
