"""Proof that no permission is idle: each statement is taken away in the deployed system, and something must break.

| module | what |
|---|---|
| `statements` | what the deployed roles are allowed: statements, and which policies hang on which roles |
| `removal` | take one away in place, and give it back |
| `decisions` | what the emulator decided, and by which statement |
| `walk` | a short life of the whole system, in which every permission is used |
| `results`, `kept` | what came of each, also from a proof that was broken off |
| `prove` | record one walk, then walk without each statement until something is refused |

`make prove-least-privilege` writes docs/least-privilege.md.
"""
