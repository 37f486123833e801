"""`python -m spotrelay.rehearsal.ministack_main --port N --ec2-endpoint URL`: the patched ministack, on loopback."""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

ACCOUNT_ID = "123456789012"
HOST_KEY_VARIABLE = "SPOT_RELAY_EC2_HOST_KEY"


def environment(port: int, data: Path) -> dict[str, str]:
    """The settings that make ministack keep to loopback and to its folder; it reads them while it is imported."""
    return {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "AUTH": "true",
        "MINISTACK_ACCOUNT_ID": ACCOUNT_ID,
        "STATE_DIR": str(data / "state"),
        "S3_DATA_DIR": str(data / "s3"),
        "TMPDIR": str(data / "tmp"),
        "LAMBDA_EXECUTOR": "local",
        # Listeners of their own, on fixed ports.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # With a Docker engine, ministack removes containers that it takes for its own leftovers.
        "DOCKER_HOST": f"unix://{data}/no-docker.sock",
    }


def end_with_parent() -> None:
    """End this whole process group once standard input closes, which it does when the starting process is gone."""
    while sys.stdin.buffer.read(4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Set the environment, patch, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ec2-endpoint", required=True, metavar="URL", help="where EC2 calls are passed on to")
    parser.add_argument("--ec2-control", metavar="URL", help="the EC2 host's control API, for quotas and failures")
    parser.add_argument("--decisions", type=Path, metavar="FILE", help="keeps what each role was allowed, and why")
    parser.add_argument("--data", type=Path, default=Path("ministack-data"), help="folder for everything it writes")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input closes; needs an own group")
    options = parser.parse_args()

    settings = environment(options.port, options.data.resolve())
    for name in ("STATE_DIR", "S3_DATA_DIR", "TMPDIR"):
        Path(settings[name]).mkdir(parents=True, exist_ok=True)
    os.environ.update(settings)
    # Lambdas inherit this environment: they must not find the host's key in it.
    host_key = os.environ.pop(HOST_KEY_VARIABLE, "")

    # Not before the environment is set.
    from spotrelay.rehearsal import ministack_checks, ministack_patches

    ministack_patches.apply_all(options.ec2_endpoint, host_key, options.port, options.ec2_control, options.decisions)
    if options.with_parent:
        threading.Thread(target=end_with_parent, daemon=True).start()
    sys.argv = ["ministack"]
    ministack_checks.load("app").main()


if __name__ == "__main__":
    main()
