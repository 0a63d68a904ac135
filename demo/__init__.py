"""The embedded default of `hiprobe demo`: generated clips and a tiny model."""
