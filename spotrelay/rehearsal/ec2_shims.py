"""The commands a rehearsed instance finds first in its PATH, in place of those that would change this machine.

`install` writes one small script per command into an instance's own folder. The scripts carry the control API's address
and the instance's id, so they work for a process with a cleared environment. What they were asked is in `shims.log`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

POWER = ("shutdown", "poweroff")
# Asked for and ignored: each would change the machine, and a rehearsal needs none of it done. `halt` too: on EC2 it
# leaves an instance that is still billed.
IGNORED = (
    "apt", "apt-get", "chgrp", "chown", "dpkg", "groupadd", "halt", "ip6tables", "iptables", "mkfs", "mkswap",
    "modprobe", "mount", "nft", "reboot", "service", "snap", "swapoff", "swapon", "sysctl", "systemd-run", "umount",
    "update-alternatives", "useradd", "adduser", "userdel", "usermod",
)  # fmt: skip
NAMES = (*POWER, *IGNORED, "systemctl", "runuser", "sudo", "docker")
# A path to the real command would go round the shims: such user data is not run.
_GUARDED = "|".join(map(re.escape, (*POWER, *IGNORED, "systemctl", "sudo")))
_ABSOLUTE = re.compile(r"(?<![\w.$}/])/(?:usr/)?(?:local/)?s?bin/(" + _GUARDED + r")\b")
DOCKER_LABEL = "spot-relay.rehearsal"

_SHIM = '''#!{python} -IS
"""{name}, as a rehearsed instance sees it."""
import json, os, sys, time, urllib.request
NAME, CONTROL, INSTANCE, LOG, DOCKER, LABEL = {facts}
ARGS = sys.argv[1:]
with open(LOG, "a") as log:
    log.write(json.dumps({{"at": time.time(), "command": NAME, "args": ARGS}}) + "\\n")

def host(path, **body):
    data = json.dumps({{"id": INSTANCE, **body}}).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
    request = urllib.request.Request(CONTROL + path, data, {{"Content-Type": "application/json"}})
    opener.open(request, timeout=10).read()

def replace_by(command):
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{{NAME}}: {{command[0]}}: {{error.strerror}}")

{body}
'''

_BODIES = {
    "power": """
def minutes(when):
    if when == "now":
        return 0.0
    if ":" in when:
        hour, minute = (int(part) for part in when.split(":"))
        now = time.localtime()
        return ((hour * 60 + minute) - (now.tm_hour * 60 + now.tm_min)) % 1440
    return float(when.removeprefix("+"))

words = [arg for arg in ARGS if not arg.startswith("-")]
if "-c" in ARGS:
    host("/poweroff", cancel=True)
elif not {"-k", "-r", "-H", "--reboot", "--halt"} & set(ARGS):
    delay = minutes(words[0] if words else "+1") if NAME == "shutdown" else 0.0
    host("/poweroff", in_minutes=delay)
    if delay:
        print(f"Shutdown scheduled in {delay:g} minutes (rehearsal)", file=sys.stderr)
""",
    "ignored": "print(f\"{NAME}: left out in a rehearsal: {' '.join(ARGS)}\", file=sys.stderr)",
    "systemctl": """
verbs = [arg for arg in ARGS if not arg.startswith("-")]
if verbs[:1] and verbs[0] in ("poweroff",):
    host("/poweroff", in_minutes=0)
elif verbs[:1] and verbs[0] in ("is-active", "is-enabled", "status"):
    sys.exit(3)
""",
    "runuser": """
TAKE = {"-u", "--user", "-g", "--group", "-G", "--supp-group", "-s", "--shell", "-w", "--whitelist-environment"}
TAKE |= {"-h", "-p"}
if NAME == "runuser":
    TAKE -= {"-h", "-p"}
rest, command, by_user = list(ARGS), None, False
while rest and (rest[0].startswith("-") or "=" in rest[0].split("/")[0]):
    word = rest.pop(0)
    if word == "--":
        break
    if "=" in word and not word.startswith("-"):
        os.environ.update([word.split("=", 1)])
    elif word in ("-c", "--command") and rest:
        command = rest.pop(0)
    elif word in TAKE and rest:
        by_user = by_user or word in ("-u", "--user")
        rest.pop(0)
if NAME == "runuser" and not by_user and rest:
    rest.pop(0)
    if rest[:1] and rest[0] in ("-c", "--command"):
        command = rest[1]
if command is not None:
    replace_by(["sh", "-c", command])
if rest:
    replace_by(rest)
""",
    "docker": """
import subprocess
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
try:
    answers = bool(DOCKER) and subprocess.run([DOCKER, "info"], timeout=10, **quiet).returncode == 0
except subprocess.TimeoutExpired:
    answers = False
if not answers:
    print("docker: this job needs Docker, and no Docker engine answers on this machine. Start one, or rehearse a job "
          "without `docker: true`.", file=sys.stderr)
    sys.exit(125)
label = ["--label", f"{LABEL}={INSTANCE}"]
if ARGS[:2] in (["container", "run"], ["container", "create"]):
    ARGS = [*ARGS[:2], *label, *ARGS[2:]]
elif ARGS[:1] in (["run"], ["create"]):
    ARGS = [ARGS[0], *label, *ARGS[1:]]
replace_by([DOCKER, *ARGS])
""",
}


def install(folder: Path, instance_id: str, control: str) -> None:
    """Write the shims of one instance into `folder`. `control` is the control API's address."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        kind = "power" if name in POWER else "ignored" if name in IGNORED else "runuser" if name == "sudo" else name
        facts = (name, control, instance_id, str(folder.parent / "shims.log"), real_docker(), DOCKER_LABEL)
        script = _SHIM.format(python=sys.executable, name=name, facts=repr(facts), body=_BODIES[kind].strip())
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)


def search_path(folder: Path) -> str:
    """An instance's PATH: the shims, this interpreter, then the system's own folders."""
    return os.pathsep.join(
        [str(folder), str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
    )


def real_docker() -> str | None:
    return shutil.which("docker")


def absolute_commands(user_data: str) -> list[str]:
    """The privileged commands that `user_data` names by absolute path, past the shims."""
    code = "\n".join(line for line in user_data.splitlines() if not line.lstrip().startswith("#"))
    return sorted({match.group(0) for match in _ABSOLUTE.finditer(code)})


def asked(instance_folder: Path) -> list[tuple[str, list[str]]]:
    """What an instance asked of its shims, in order: command and arguments."""
    log = instance_folder / "shims.log"
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [(entry["command"], entry["args"]) for entry in entries]
