"""What the rehearsal's AWS does while functions may not run, and how soon a function has new settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config

from spotrelay.rehearsal.emulator import DeployedApi, Emulator, EmulatorError
from tests.test_emulator import PROJECT, REGION, arn, attempts_noted, call, create_role, policy, refused, state_change

API = "deployable-test"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    nowhere = "http://127.0.0.1:9"  # nothing here asks EC2
    with Emulator(region=REGION).start(tmp_path_factory.mktemp("emulator"), nowhere) as running:
        running.client("dynamodb").create_table(
            TableName="noted",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield running


@pytest.fixture(scope="module")
def api(emulator: Emulator) -> DeployedApi:
    allowed = {"Action": "dynamodb:UpdateItem", "Resource": arn("dynamodb", "table/noted")}
    role = create_role(emulator, "deployable", {"Service": "lambda.amazonaws.com"}, policy(allowed))
    env = {"STAGE_NAME": "first", "TABLE": "noted"}
    return emulator.chalice_deploy(PROJECT, "test", env, stage_config={"iam_role_arn": role})


def status(emulator: Emulator, api: DeployedApi) -> int:
    return call(f"{api.url}/who", emulator.session())[0]


def put(emulator: Emulator, instance: str, **detail: Any) -> None:
    emulator.client("events", as_ec2_host=True).put_events(Entries=[state_change(instance, **detail)])


def test_in_an_outage_calls_are_refused_and_the_rest_goes_on(emulator: Emulator, api: DeployedApi) -> None:
    session: Any = emulator.session()
    once = Config(retries={"total_max_attempts": 1})
    functions = session.client("lambda", endpoint_url=emulator.endpoint, config=once)
    assert status(emulator, api) == 200
    with emulator.outage(API):
        assert status(emulator, api) == 500
        with refused("TooManyRequestsException"):
            functions.invoke(FunctionName=f"{API}-on_instance")
        emulator.client("s3").create_bucket(Bucket="goes-on")
        assert emulator.client("sts").get_caller_identity()["Account"] == emulator.account_id
    assert status(emulator, api) == 200
    assert "Concurrency" not in functions.get_function(FunctionName=API)
    with pytest.raises(EmulatorError, match="no function is named nothing"), emulator.outage("nothing"):
        pass


def test_events_of_an_outage_arrive_once_after_it(emulator: Emulator, api: DeployedApi) -> None:
    with emulator.outage(API):
        put(emulator, "i-out")
        # Longer than all three attempts of an event whose function fails.
        assert attempts_noted(emulator, "i-out", 1, timeout=4) == 0
    assert attempts_noted(emulator, "i-out", 1) == 1
    assert attempts_noted(emulator, "i-out", 2, timeout=2) == 1


def test_an_outage_between_two_attempts_uses_up_none(emulator: Emulator, api: DeployedApi) -> None:
    put(emulator, "i-between", fail_first=True)
    assert attempts_noted(emulator, "i-between", 1) == 1
    with emulator.outage(API):
        assert attempts_noted(emulator, "i-between", 2, timeout=4) == 1
    assert attempts_noted(emulator, "i-between", 2) == 2


def test_a_function_has_new_settings_from_the_next_call_on(emulator: Emulator, api: DeployedApi) -> None:
    functions = emulator.client("lambda")
    assert call(f"{api.url}/who", emulator.session())[1]["stage"] == "first"  # a worker that is warm
    env = functions.get_function_configuration(FunctionName=API)["Environment"]["Variables"]
    functions.update_function_configuration(FunctionName=API, Environment={"Variables": {**env, "STAGE_NAME": "later"}})
    assert call(f"{api.url}/who", emulator.session())[1]["stage"] == "later"
