"""The way a person takes, with the real commands and the real chalice: deploy, look, destroy, deploy again, destroy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spotrelay.deploying import ROOT
from spotrelay.rehearsal.ec2_control import Ec2Host
from spotrelay.rehearsal.emulator import Emulator

BUCKET = "spot-relay-dev-123456789012-us-east-1"
# What the emulator does not have, or has otherwise: `service-quotas`; recovery of a table made by CloudFormation; the policy that
# refuses plain HTTP, which would refuse everybody on loopback; and nobody gave an address.
LACKING = {"table", "bucket", "mail"}
API_FUNCTION = "spot-relay-dev"
MOST_BUNDLE = 6 * 1024 * 1024
CHALICE = [sys.executable, "-c", "import sys; from chalice.cli import main; sys.exit(main())"]


class Person:
    """Somebody with a checkout, credentials, and the emulator for AWS."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.aws, self.folder = emulator, folder
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "deployed", "deployments")
        for name in ("chalicelib", "spotrelay", "userdata", ".chalice"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("app.py", "requirements.txt"):
            shutil.copy2(ROOT / name, folder / name)
        self.image = emulator.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "COV_"))},
            "AWS_ENDPOINT_URL": emulator.endpoint,
            "AWS_ACCESS_KEY_ID": emulator.access_key_id,
            "AWS_SECRET_ACCESS_KEY": emulator.secret_access_key,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1,localhost"))),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, *arguments: str, says: str = "") -> tuple[int, Any, str]:
        """Exit code, what was printed as JSON (or text), and what was said beside it."""
        done = subprocess.run(
            [sys.executable, "-m", "spotrelay.cli", *arguments, "--region", "us-east-1"],
            cwd=self.folder,
            env=self.env,
            input=says,
            capture_output=True,
            text=True,
            timeout=120,
        )
        try:
            return done.returncode, json.loads(done.stdout), done.stderr
        except ValueError:
            return done.returncode, done.stdout, done.stderr

    def deploy(self, *more: str) -> dict[str, Any]:
        template = ("--parameter", f"ImageId={self.image}", "--parameter", "TlsOnly=false")
        code, made, said = self.run("deploy", "--yes", "--json", *template, *more)
        assert code == 0, (made, said)
        assert isinstance(made, dict)
        return made

    def chalice(self, *arguments: str) -> None:
        env = {**self.env, "AWS_DEFAULT_REGION": "us-east-1"}
        done = subprocess.run([*CHALICE, *arguments], cwd=self.folder, env=env, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()

    def roles(self) -> list[str]:
        """Names of the roles that the functions run as."""
        return sorted(f["Role"].rpartition("/")[2] for f in self.aws.client("lambda").list_functions()["Functions"])

    def functions(self) -> list[str]:
        return sorted(f["FunctionName"] for f in self.aws.client("lambda").list_functions()["Functions"])

    def apis(self) -> list[str]:
        return [api["id"] for api in self.aws.client("apigateway").get_rest_apis()["items"]]

    def record(self) -> Path:
        return self.folder / ".chalice/deployed/dev.json"


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    folder = tmp_path_factory.mktemp("path")
    with Ec2Host(folder / "ec2", time_scale=0.1) as host, Emulator().start(folder / "aws", host.endpoint) as emulator:
        aws = emulator
        host.control.emulator(aws.endpoint, aws.host_key, aws.access_key_id, aws.secret_access_key)
        yield Person(emulator, folder / "checkout")


def test_deploy_destroy_deploy_destroy(person: Person) -> None:
    """One walk, since each step stands on the one before."""
    code, found, said = person.run("doctor", "--json")
    assert code == 1, said
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["stack"]["mend"] == "spotrelay deploy --stage dev --region us-east-1"
    assert checks["functions"]["sentence"].startswith("Not deployed: api_handler")
    assert checks["credentials"]["verdict"] == checks["network"]["verdict"] == "ok"

    code, plan, said = person.run("deploy", "--dry-run", "--json")
    assert (code, plan["account"], plan["bucket"]) == (0, "123456789012", BUCKET), said
    assert person.functions() == []

    first = person.deploy("--limit", "12.50")
    planned = {resource["logical_id"] for resource in plan["resources"]}
    stack = person.aws.client("cloudformation").describe_stack_resources(StackName=plan["stack"])["StackResources"]
    # The emulator is told to do without the policy that refuses plain HTTP.
    assert planned - {"BucketPolicy"} == {resource["LogicalResourceId"] for resource in stack}
    assert sorted(name for name, _ in plan["functions"]) == person.functions()
    assert first["BucketName"] == BUCKET
    configured = person.aws.client("lambda").get_function_configuration(FunctionName="spot-relay-dev-sweep")
    assert configured["Environment"]["Variables"]["LIMIT_USD"] == "12.5"
    assert configured["Environment"]["Variables"]["API_URL"] == first["api_url"]

    # What Chalice can't set.
    for name in ("on_warning", "on_state_change", "sweep"):
        retries = person.aws.client("lambda").get_function_event_invoke_config(FunctionName=f"{API_FUNCTION}-{name}")
        assert retries["MaximumRetryAttempts"] == 2
        assert retries["DestinationConfig"]["OnFailure"]["Destination"] == first["FailedEventsArn"]
    groups = person.aws.client("logs").describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{API_FUNCTION}")[
        "logGroups"
    ]
    assert {g["logGroupName"].rpartition("/")[2] for g in groups} == set(person.functions())
    assert {g.get("retentionInDays") for g in groups} == {30}

    # The doctor asks for a sweep that ran, and finds one; what the emulator lacks is unknown, not well.
    event = {"version": "0", "id": "1", "detail-type": "Scheduled Event", "source": "aws.events", "detail": {}}
    event |= {"account": person.aws.account_id, "time": "2026-01-01T00:00:00Z", "region": "us-east-1", "resources": []}
    person.aws.client("lambda").invoke(FunctionName="spot-relay-dev-sweep", Payload=json.dumps(event).encode())
    code, found, said = person.run("doctor", "--json")
    assert (code, found["ok"]) == (0, True), found
    not_well = {check["name"] for check in found["checks"] if check["verdict"] != "ok"}
    assert not_well == LACKING, found

    # Again, on another laptop: no record of Chalice's, and still no second API.
    apis = person.apis()
    person.record().unlink()
    again = person.deploy()
    assert again["api_url"] == first["api_url"]
    assert person.apis() == apis
    configured = person.aws.client("lambda").get_function_configuration(FunctionName="spot-relay-dev-sweep")
    assert configured["Environment"]["Variables"]["LIMIT_USD"] == "12.5", "a limit that is not named stays"

    # A limit that was set once is moved by naming another; one below what the month holds is refused, with its numbers.
    assert person.deploy("--limit", "15")["limit"] == {"limit_usd": "15.00", "before_usd": "12.50", "refusal": None}
    key = {"pk": {"S": f"LEDGER#{datetime.now(UTC):%Y-%m}"}, "sk": {"S": "MONTH"}}
    held = {":free": {"N": "2"}, ":settled": {"N": "13"}}
    table = person.aws.client("dynamodb")
    table.update_item(
        TableName="spot-relay-dev",
        Key=key,
        UpdateExpression="SET #free = :free, settled = :settled",
        ExpressionAttributeNames={"#free": "free"},
        ExpressionAttributeValues=held,
    )
    template = ("--parameter", f"ImageId={person.image}", "--parameter", "TlsOnly=false")
    code, told, said = person.run("deploy", "--yes", "--json", *template, "--limit", "5")
    assert (code, told["limit"]["limit_usd"]) == (1, "15.00"), said
    assert "settled 13.00" in told["limit"]["refusal"]
    assert person.deploy("--limit", "14")["limit"]["limit_usd"] == "14.00"

    # A later `chalice deploy` alone updates the code and leaves the rest.
    person.chalice("deploy", "--stage", "dev")
    assert person.apis() == apis

    # Each function runs as its own role still, and ships little.
    handlers = ("api_handler", "on_state_change", "on_warning", "sweep")
    assert person.roles() == [f"spot-relay-dev-{handler}" for handler in handlers]
    (packed,) = (person.folder / ".chalice/deployments").glob("*.zip")
    assert packed.stat().st_size <= MOST_BUNDLE

    # What `chalice package` makes of it is a template that AWS would take.
    person.chalice("package", "--stage", "dev", "packaged")
    packaged = person.folder / "packaged/sam.json"
    lint = [str(Path(sys.executable).with_name("cfn-lint")), "--regions", "us-east-1", "--template", str(packaged)]
    linted = subprocess.run(lint, capture_output=True, text=True, timeout=120)
    assert linted.returncode == 0, linted.stdout
    made = json.loads(packaged.read_text())["Resources"].values()
    roles = {each["Properties"].get("Role") for each in made if each["Type"] == "AWS::Serverless::Function"}
    assert {role.rpartition("/")[2] for role in roles} == set(person.roles())

    person.aws.client("s3").put_object(Bucket=BUCKET, Key="runs/a/results/0001/metrics.json", Body=b"{}")

    # An answer that is no yes changes nothing.
    code, _, said = person.run("destroy", says="n\n")
    assert code == 1
    assert "Remove everything" in said
    assert len(person.functions()) == 4

    # As a destroy that was cut off leaves it: Chalice's own delete would stumble over the missing function.
    person.aws.client("lambda").delete_function(FunctionName="spot-relay-dev-on_warning")
    code, gone, said = person.run("destroy", "--yes", "--json")
    assert code == 0, said
    assert gone["left"]["bucket"] == BUCKET
    assert person.functions() == []
    assert person.apis() == []
    assert person.aws.client("logs").describe_log_groups(logGroupNamePrefix="/aws/lambda/spot-relay")["logGroups"] == []
    assert person.aws.client("dynamodb").list_tables()["TableNames"] == []
    assert "stages" not in json.loads((person.folder / ".chalice/config.json").read_text())

    # Repeatable.
    code, gone, said = person.run("destroy", "--yes", "--json")
    assert (code, gone["removed"], gone["left"]["bucket"]) == (0, [], BUCKET), said

    # The bucket that was left is taken back, with what is in it.
    second = person.deploy()
    assert second["BucketName"] == BUCKET
    kept = person.aws.client("s3").get_object(Bucket=BUCKET, Key="runs/a/results/0001/metrics.json")
    assert kept["Body"].read() == b"{}"
    rules = person.aws.client("s3").get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert {rule["ID"] for rule in rules} == {"old-versions", "unfinished-uploads"}

    code, gone, said = person.run("destroy", "--yes", "--json")
    assert (code, gone["left"]["bucket"]) == (0, BUCKET), said
