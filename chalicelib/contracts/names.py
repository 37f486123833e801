"""What names look like, without what it takes to check a whole spec: event handlers read this, too."""

NAME = r"[a-z0-9][a-z0-9_-]{0,62}"  # a run's
