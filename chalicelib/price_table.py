"""On-demand prices written down once: a last resort for estimates, when AWS names no price.

They age, so nothing is launched on them (I9), and where anything newer is known they can only raise an estimate.
"""

from __future__ import annotations

from decimal import Decimal

AS_OF = "2026-11"
# USD per hour, Linux, us-east-1 (EC2 on-demand price list).
ON_DEMAND_USD_HOUR = {
    kind: Decimal(usd)
    for kind, usd in {
        "c5.large": "0.085", "c5.xlarge": "0.170", "c5.2xlarge": "0.340", "c5.4xlarge": "0.680",
        "c5a.xlarge": "0.154", "c5a.2xlarge": "0.308",
        "c6i.large": "0.085", "c6i.xlarge": "0.170", "c6i.2xlarge": "0.340", "c6i.4xlarge": "0.680",
        "m5.large": "0.096", "m5.xlarge": "0.192", "m5.2xlarge": "0.384",
        "m6i.large": "0.096", "m6i.xlarge": "0.192", "m6i.2xlarge": "0.384",
        "r5.large": "0.126", "r5.xlarge": "0.252",
        "g4dn.xlarge": "0.526", "g5.xlarge": "1.006", "p3.2xlarge": "3.06",
        "t3.micro": "0.0104", "t3.small": "0.0208", "t3.medium": "0.0416", "t3.large": "0.0832",
    }.items()
}  # fmt: skip
