"""The design's numbers, measured: each a count, or a ratio of two things measured in the same run."""
