"""The GPU job: videos through a frozen multimodal LLM into a feature store.

The only stage that imports torch, transformers and av, and only inside the modules that use
them: ``import hiprobe.extract`` itself is cheap.
"""

import logging

# Where torchao is installed, Transformers imports it, and torch warns of what torchao does there.
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
