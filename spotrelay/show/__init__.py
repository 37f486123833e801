"""The API's answers as a person reads them in a terminal. Pure: an answer and the time in, something rich can print out.

| module | what |
|---|---|
| `words` | money, spans, ages and steps as words |
| `runs` | runs: the list, one at a glance, its timeline and checkpoints |
| `tables` | what they are laid out in |
| `money` | a plan, the month's budget, a run's ledger |
"""
