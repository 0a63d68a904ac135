"""What `hiprobe detect` shows while the video plays, and at the end."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.text import Text

from hiprobe.cli.output import say, terminal
from hiprobe.extract.detect import DetectConfig, Detection, detect
from hiprobe.extract.video import VideoInfo
from hiprobe.store.windows import Window

BARS = "▁▂▃▄▅▆▇█"


def detect_live(config: DetectConfig, threshold: float, window: Window | None = None) -> Detection:
    """Detect, with a growing curve on a terminal, or else a line a segment.

    What is shown live are the raw scores; the closing curve is the smoothed one, for the last
    segments' smoothed scores depend on those still to come. Where the model sees a window, what it
    sees stands beside each segment.
    """
    console = terminal(stderr=True)

    def seen(video: VideoInfo, own: tuple[int, int]) -> str:
        if window is None:
            return ""
        ((start, stop),) = window.of_segments([own], video.num_frames, video.fps)
        return f" (seen {start}-{stop})"

    if not console.is_terminal:

        def print_segment(
            video: VideoInfo, ranges: list[tuple[int, int]], scores: list[float]
        ) -> None:
            mark = " above the threshold" if scores[-1] > threshold else ""
            start, stop = ranges[-1]
            console.print(
                f"{start / video.fps:8.2f} s  frames {start}-{stop}{seen(video, ranges[-1])}  "
                f"{scores[-1]:.4f}{mark}"
            )

        return detect(config, print_segment)
    with Live(Text("loading the model"), console=console, refresh_per_second=8) as live:

        def draw(video: VideoInfo, ranges: list[tuple[int, int]], scores: list[float]) -> None:
            seconds, whole = ranges[-1][1] / video.fps, video.num_frames / video.fps
            live.update(
                Group(
                    curve(scores, threshold, console.width),
                    Text(
                        f"{seconds:.1f} of {whole:.1f} s   score {scores[-1]:.3f}   "
                        f"threshold {threshold:.3f}   frames {ranges[-1][0]}-{ranges[-1][1]}"
                        + seen(video, ranges[-1])
                    ),
                )
            )

        return detect(config, draw)


def curve(scores: list[float], threshold: float, width: int) -> Text:
    """Draw scores as a line of bars, red above the threshold; the last `width` of them."""
    text = Text()
    for score in scores[-width:]:
        height = min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0
        bar = BARS[min(int(height * len(BARS)), len(BARS) - 1)]
        text.append(bar, style="bold red" if score > threshold else "cyan")
    return text


def print_detection(detection: Detection, descriptions: list[str], video: Path) -> None:
    """Print the smoothed curve, the intervals, and what the model says of them."""
    console = terminal()
    for note in detection.notes:
        say(f"note: {video}: {note}", style="yellow")
    console.print(curve(detection.smoothed.tolist(), detection.threshold, console.width))
    found, fps = detection.intervals, detection.video.fps
    say(
        f"{video}: {len(found)} anomalous interval(s) in {detection.video.num_frames / fps:.1f} s, "
        f"threshold {detection.threshold:.4f}"
    )
    if detection.windows is not None:
        longest = int((detection.windows[:, 1] - detection.windows[:, 0]).max(initial=0))
        say(f"of each segment the model saw up to {longest} frames around its middle")
    for index, (start, stop) in enumerate(found):
        inside = (detection.start_frames < stop) & (detection.stop_frames > start)
        peak = detection.smoothed[inside].max()
        say(f"  {start / fps:.2f}-{stop / fps:.2f} s (frames {start}:{stop}), up to {peak:.3f}")
        if index < len(descriptions):
            say(f"    {descriptions[index]}")
