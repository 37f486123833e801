"""The command line's groups of commands, a module each. What they do is elsewhere; here it is asked for and shown."""
