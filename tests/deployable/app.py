"""A small application to deploy in tests: a signed route, and a rule that notes what it was told."""

import os

import boto3
from chalice import Chalice, IAMAuthorizer

app = Chalice(app_name="deployable")


@app.route("/who", authorizer=IAMAuthorizer())
def who():
    identity = app.current_request.context["identity"]
    return {"caller": identity["userArn"], "stage": os.environ["STAGE_NAME"]}


@app.on_cw_event({"source": ["aws.ec2"], "detail-type": ["EC2 Instance State-change Notification"]})
def on_instance(event):
    key = f"{event.detail['instance-id']}/{event.detail['state']}"
    table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
    attempts = table.update_item(
        Key={"pk": key},
        UpdateExpression="ADD attempts :one",
        ExpressionAttributeValues={":one": 1},
        ReturnValues="ALL_NEW",
    )["Attributes"]["attempts"]
    if event.detail.get("fail_first") and attempts == 1:
        raise RuntimeError("asked to fail the first time")
