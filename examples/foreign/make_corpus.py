"""Write a corpus of simple sentences, the same at each call."""

import json
import random
from pathlib import Path

NOUNS = [
    "driver",
    "instance",
    "checkpoint",
    "bucket",
    "runner",
    "baton",
    "lap",
    "road",
    "signal",
    "car",
    "lane",
    "message",
    "bridge",
    "river",
]
VERBS = [
    "carries",
    "reads",
    "hands",
    "follows",
    "keeps",
    "leaves",
    "crosses",
    "finds",
    "writes",
    "sends",
    "waits",
    "builds",
    "closes",
    "opens",
]
ADJECTIVES = [
    "small",
    "quiet",
    "late",
    "early",
    "blue",
    "heavy",
    "careful",
    "patient",
    "bright",
    "old",
    "new",
    "slow",
    "quick",
]


def main() -> None:
    choose = random.Random(1).choice
    with Path("corpus.jsonl").open("w", encoding="utf-8") as corpus:
        for _ in range(600):
            sentences = [
                f"The {choose(ADJECTIVES)} {choose(NOUNS)} {choose(VERBS)} the {choose(ADJECTIVES)} {choose(NOUNS)}."
                for _ in range(5)
            ]
            corpus.write(json.dumps({"text": " ".join(sentences)}) + "\n")


if __name__ == "__main__":
    main()
