"""What is wrong with a deployment, and the command that mends it.

`gather` asks AWS and gives `facts`; `judge` turns facts into checks and asks nothing. What could not be asked is `Unknown`
and never passes for well.
"""
