"""A simulated world: virtual time, EC2 with pools and prices, agents, and the real core, shell, routes and sweep inside it."""
