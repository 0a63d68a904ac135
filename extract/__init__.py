"""The GPU job: videos through a frozen multimodal LLM into a feature store.

The only stage that imports torch, transformers and av, and only inside the modules that use
them: ``import hiprobe.extract`` itself is cheap.
"""
