"""What is deployed, as far as it can be told without deploying: the rehearsals do that."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from spotrelay import deploying
from spotrelay.deploying import ROOT, DeployError, template

TEMPLATE = template.load()
PROPERTIES = {name: resource["Properties"] for name, resource in TEMPLATE["Resources"].items()}


def test_the_boot_script_fits_and_comes_back_whole() -> None:
    script = (ROOT / "userdata/boot.sh").read_bytes()
    parts = deploying.user_data(script)
    assert list(parts) == [f"UserData{n}" for n in range(6)]
    assert all(name in TEMPLATE["Parameters"] and len(part) <= 4096 for name, part in parts.items())
    assert base64.b64decode("".join(parts.values())) == script


def test_a_boot_script_that_ec2_would_refuse_is_refused_here() -> None:
    with pytest.raises(DeployError, match="16384"):
        deploying.user_data(b"x" * 16385)


def test_an_instance_is_closed_disposable_and_keeps_its_metadata_to_itself() -> None:
    data = PROPERTIES["LaunchTemplate"]["LaunchTemplateData"]
    assert data["MetadataOptions"] == {
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
        "InstanceMetadataTags": "enabled",
    }
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    (disk,) = data["BlockDeviceMappings"]
    assert disk["Ebs"]["Encrypted"]
    assert disk["Ebs"]["DeleteOnTermination"]
    assert "KeyName" not in data
    assert "SecurityGroupIngress" not in PROPERTIES["SecurityGroup"]


def test_the_bucket_is_private_encrypted_and_outlives_the_stack() -> None:
    bucket = TEMPLATE["Resources"]["Bucket"]
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert all(bucket["Properties"]["PublicAccessBlockConfiguration"].values())
    assert bucket["Properties"]["BucketEncryption"]


def test_an_instance_may_fetch_the_agent_and_call_the_agents_routes_and_nothing_else() -> None:
    statements = PROPERTIES["InstanceRole"]["Policies"][0]["PolicyDocument"]["Statement"]
    assert {s["Sid"]: s["Action"] for s in statements} == {
        "FetchTheAgent": "s3:GetObject",
        "CallTheAgentsRoutes": "execute-api:Invoke",
    }
    assert statements[1]["Resource"]["Fn::Sub"].endswith("/POST/attempts/*")


def test_every_output_is_one_the_deployment_reads() -> None:
    assert set(TEMPLATE["Outputs"]) == set(deploying.Resources.__dataclass_fields__)


def test_a_stage_is_written_into_chalices_config_beside_others(tmp_path: Path) -> None:
    (tmp_path / ".chalice").mkdir()
    path = tmp_path / ".chalice/config.json"
    path.write_text(json.dumps({"version": "2.0", "app_name": "spot-relay", "stages": {"prod": {"keep": 1}}}))
    deploying.render_config(tmp_path, "dev", {"STAGE": "dev"}, {"api_handler": "arn:aws:iam::1:role/r"})
    config = json.loads(path.read_text())
    assert config["stages"]["prod"] == {"keep": 1}
    assert config["stages"]["dev"]["environment_variables"] == {"STAGE": "dev"}
    assert config["stages"]["dev"]["lambda_functions"]["api_handler"]["iam_role_arn"] == "arn:aws:iam::1:role/r"


def test_what_the_lambda_ships_is_what_is_tested_with() -> None:
    from importlib.metadata import version

    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, pinned = line.partition("==")
            assert version(name) == pinned
