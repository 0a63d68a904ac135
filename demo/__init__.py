"""The embedded default of `hiprobe demo`: generated clips and a tiny model."""

import hiprobe.extract  # noqa: F401  # which quiets what Transformers imports
