"""How large frames are shown to a model whose processor leaves it open: Qwen's.

Their published processors allow anything from 56 x 56 to 3584 x 3584 pixels; their authors' own
utilities, and so what the models were trained with, 128 to 768 tokens a pair of frames.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

from hiprobe.extract.config import OWN_PIXELS, BackboneConfig
from hiprobe.store import ModelError

FEWEST_TOKENS, MOST_TOKENS = 128, 768


def frame_pixels(config: BackboneConfig, processor: Any) -> tuple[int, int] | None:
    """Choose the fewest and the most pixels of a frame.

    Returns
    -------
    (int, int) or None
        None: the processor is used as it is. It knows one size only, a smaller range than Qwen's
        utilities is its own, or `OWN_PIXELS` are asked for.

    Raises
    ------
    ModelError
        A range is asked for that the processor does not know, or that is empty.
    """
    video, asked = processor.video_processor, (config.min_pixels, config.max_pixels)
    if OWN_PIXELS in asked:
        return None
    if not isinstance(video, Qwen2VLVideoProcessor | Qwen3VLVideoProcessor):
        if asked == (None, None):
            return None
        raise ModelError(
            f"{config.model}: --min-pixels and --max-pixels are for Qwen's processors; "
            f"{type(video).__name__} shows all frames in one size. Leave them out."
        )
    pixels_per_token = (video.patch_size * video.merge_size) ** 2
    fewest, most = FEWEST_TOKENS * pixels_per_token, MOST_TOKENS * pixels_per_token
    if asked == (None, None) and video.size["longest_edge"] < most:
        return None
    low, high = config.min_pixels or fewest, config.max_pixels or most
    # What is asked for may lie beyond the other bound's default.
    low = low if config.min_pixels else min(low, high)
    high = high if config.max_pixels else max(low, high)
    if low > high:
        raise ModelError(
            f"--min-pixels {low} --max-pixels {high}: no frame can be both. Swap them."
        )
    return low, high


def size_options(
    processor: Any, pixels: tuple[int, int] | None, num_frames: int
) -> dict[str, dict[str, int]]:
    """Say it in the words of a processor's call, for videos of so many frames."""
    if pixels is None:
        return {}
    low, high = pixels
    if isinstance(processor.video_processor, Qwen3VLVideoProcessor):
        # This one counts the pixels of all frames. No frame gets more than its share of what the
        # checkpoint allows a video: that is felt from 33 frames on.
        share = processor.video_processor.size["longest_edge"] // num_frames
        high = max(low, min(high, share))
        low, high = low * num_frames, high * num_frames
    return {"size": {"shortest_edge": low, "longest_edge": high}}


def caps_pixels(processor: Any, pixels: tuple[int, int] | None) -> bool:
    """Whether the processor's own cap holds, which for Qwen3-VL takes a range to be a video's."""
    return pixels is None or not isinstance(processor.video_processor, Qwen3VLVideoProcessor)
