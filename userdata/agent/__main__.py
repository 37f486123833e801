"""The agent's entry: `python3 /opt/spot-relay/agent`."""

import sys

from relay import main

if __name__ == "__main__":
    sys.exit(main())
