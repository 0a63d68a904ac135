"""The embedded default of `hiprobe demo`: generated clips and a tiny model."""

import hiprobe.extract  # noqa: F401  first: it silences a library that Transformers imports
