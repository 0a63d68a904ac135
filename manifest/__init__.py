"""What there is to work on: videos, labels and annotations, written as a manifest.

Folders of videos, the benchmarks' original files, and own events in seconds. Opens no video
itself: who needs lengths hands in a function that reads them. Never imports torch.
"""
