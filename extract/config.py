"""What an extraction is asked for. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hiprobe.extract.segments import NUM_KEYFRAMES, SEGMENT_FRAMES
from hiprobe.store.windows import Window

# For `BackboneConfig.min_pixels` and `max_pixels`: whatever the processor's own range is.
OWN_PIXELS = 0
DEFAULT_PROMPT = "Is anything abnormal happening in this video? Describe it."


@dataclass(frozen=True)
class BackboneConfig:
    """Everything about the model that changes the numbers.

    Attributes
    ----------
    model : str
        A hub id or a local folder in Transformers' layout.
    revision : str or None
        A hub revision; None is the default branch.
    prompt : str
        The text after the video in the one user message.
    prompt_name : str
        What it is called beside further ones; may be empty.
    further_prompts : tuple of (str, str)
        Names and texts of prompts whose states are kept too. What all of them share, the video
        above all, is computed once.
    layers : tuple of int or None
        Layers to keep, 0 = embedding output; None keeps all.
    dtype : {'auto', 'float32', 'bfloat16', 'float16'}
        'auto': the checkpoint's own on a GPU, float32 on a CPU.
    device : str
        'auto' (a GPU where there is one), 'cpu', 'cuda:0', …
    share_gpu : bool
        Put the model on a GPU that another process of hiprobe has its own on, too.
    attention : {'auto', 'sdpa', 'flash_attention_2', 'eager'}
        Transformers' implementation; 'auto' is its own choice, SDPA where the model has it.
    load_in : {'full', 'int8', 'fp8', '8bit', '4bit'}
        'int8', 'fp8': weights and activations of the decoder's linear layers, by torchao; fp8 needs
        a CUDA GPU of compute capability 8.9. '8bit', '4bit': weights, by bitsandbytes; need a CUDA
        GPU.
    compile : bool
        ``torch.compile`` each decoder layer and each block of the vision tower.
    min_pixels, max_pixels : int or None
        Range of a frame's pixels, for Qwen's processors. None: 128 and 768 tokens' worth, as Qwen's
        utilities have it, unless the checkpoint's own range ends below; `OWN_PIXELS`: its own.
    fps_shown : float or None
        Tell the model that keyframes follow each other at so many a second; None: the truth.
    frames_on_device : bool or None
        Resize and normalise frames on the model's device; None: on a GPU. See
        `hiprobe.extract.device_frames`.
    keep_wrapped : bool
        See `hiprobe.extract.chat_template.chat_text`: for stores that were made so.
    taps : tuple of str
        What to keep beside ``hidden_states``: of `hiprobe.store.taps.TAPS`.
    answers : tuple of str
        Words, one token each, whose rows of the LM head a store keeps beside the usual ones.
    """

    model: str
    revision: str | None = None
    prompt: str = DEFAULT_PROMPT
    prompt_name: str = ""
    further_prompts: tuple[tuple[str, str], ...] = ()
    layers: tuple[int, ...] | None = None
    dtype: str = "auto"
    device: str = "auto"
    share_gpu: bool = False
    attention: str = "auto"
    load_in: str = "full"
    compile: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    fps_shown: float | None = None
    frames_on_device: bool | None = None
    keep_wrapped: bool = False
    taps: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExtractConfig:
    """One extraction.

    Attributes
    ----------
    manifest, store : Path
    backbone : BackboneConfig
    segment_frames : int or None
        Frames of a segment; None makes each video one segment.
    keyframes : int
        Keyframes per segment, K.
    window : Window or None
        What they are taken from; None: the segment.
    thumbnails : bool
        Keep a small picture of each segment too, for the report.
    batch_size : int or None
        Segments of one video per forward pass; None finds the largest that fits.
    num_readers : int
        Threads that decode and preprocess ahead of the model.
    num_workers : int
        Processes that share the videos on this machine; 0 works in this one.
    scheduler : str or None
        Address of a running Dask scheduler whose workers share the videos.
    rank, world_size : int
        Take every `world_size`-th video of the manifest, from the `rank`-th on.
    limit : int or None
        At most so many videos in this run.
    split : {'train', 'test'} or None
        Extract the videos of this split in this run; None: of both.
    only : tuple of str
        Ids of the videos to extract in this run, or patterns with ``*``; none: all.
    retry_failed : bool
        Plan and extract failed videos again.
    replace_changed : bool
        Plan and extract videos again whose files have changed.
    parity : int
        Segments to compute again at the end, one at a time.
    layers_from : Path or None
        A probe that is to score the states: they are made as those that it was trained on, or not
        at all.
    """

    manifest: Path
    store: Path
    backbone: BackboneConfig
    segment_frames: int | None = SEGMENT_FRAMES
    keyframes: int = NUM_KEYFRAMES
    window: Window | None = None
    thumbnails: bool = False
    batch_size: int | None = None
    num_readers: int = 2
    num_workers: int = 0
    scheduler: str | None = None
    rank: int = 0
    world_size: int = 1
    limit: int | None = None
    split: str | None = None
    only: tuple[str, ...] = ()
    retry_failed: bool = False
    replace_changed: bool = False
    parity: int = 4
    layers_from: Path | None = None
