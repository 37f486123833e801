"""Facts in, checks out: what is well, what to look at, what is wrong, and the command that mends it. Pure.

Each judge looks at one fact. A fact that could not be asked is a warning that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from spotrelay.deploying.bucket import default_name
from spotrelay.deploying.settings import SETTINGS, UNKNOWN_URL
from spotrelay.doctor import around
from spotrelay.doctor.checks import Check, deploy, unknown
from spotrelay.doctor.facts import Facts, Function, Identity, Unknown

# The sweep comes each minute, and logs arrive a little late.
_SWEEP_WARN_S = 300.0
_HEALTHY = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")


def judge(facts: Facts) -> list[Check]:
    """Every check, in the order in which one would mend."""
    return [check for each in JUDGES for check in each(facts)]


def stack(f: Facts) -> Iterator[Check]:
    if isinstance(f.stack, Unknown):
        yield unknown("stack", f.stack)
    elif f.stack is None:
        yield Check("stack", "fail", f"Stage {f.stage} is not deployed in {f.region}.", deploy(f))
    elif f.stack.status in _HEALTHY:
        yield Check("stack", "ok", f"{f.stack.status}.")
    elif f.stack.status.endswith("_IN_PROGRESS"):
        yield Check(
            "stack", "warn", f"{f.stack.status}: a deploy is under way, or was cut off; the next one waits for it."
        )
    elif f.stack.status == "UPDATE_ROLLBACK_COMPLETE":
        yield Check("stack", "warn", f"The last update failed and was taken back:\n{f.stack.failures}", deploy(f))
    else:
        yield Check("stack", "fail", f"{f.stack.status}:\n{f.stack.failures}", deploy(f))


def table(f: Facts) -> Iterator[Check]:
    if isinstance(f.table, Unknown):
        yield unknown("table", f.table)
    elif f.table.status is None:
        yield Check("table", "fail", f"There is no table {f.table.name}.", deploy(f))
    elif f.table.status != "ACTIVE":
        yield Check("table", "warn", f"{f.table.name} is {f.table.status}.")
    elif not f.table.recoverable:
        mend = (
            f"aws dynamodb update-continuous-backups --table-name {f.table.name} --region {f.region} "
            "--point-in-time-recovery-specification PointInTimeRecoveryEnabled=true"
        )
        yield Check("table", "warn", f"{f.table.name} has no point-in-time recovery.", mend)
    else:
        yield Check("table", "ok", f"{f.table.name} is there and recoverable.")


def bucket(f: Facts) -> Iterator[Check]:
    if isinstance(f.bucket, Unknown):
        yield unknown("bucket", f.bucket)
        return
    b = f.bucket
    if not b.reachable:
        yield Check("bucket", "fail", f"{b.name} is gone or closed to you.", deploy(f))
        return
    if not b.private:
        mend = (
            f"aws s3api put-public-access-block --bucket {b.name} --public-access-block-configuration "
            "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true"
        )
        yield Check("bucket", "fail", f"{b.name} does not block public access.", mend)
    wanting = [
        what
        for what, there in (
            ("a policy that refuses plain HTTP", b.tls_only),
            ("versioning", b.versioned),
            ("a rule that ends unfinished uploads", b.cleans_up),
        )
        if not there
    ]
    if wanting:
        ours = isinstance(f.identity, Identity) and b.name == default_name(f.stage, f.identity.account, f.region)
        sentence = f"{b.name} lacks {', '.join(wanting)}" + (
            "." if ours else "; it is your own bucket, which deploying leaves alone."
        )
        yield Check("bucket", "warn", sentence, deploy(f) if ours else "")
    if not b.has_agent:
        yield Check("agent", "warn", f"{b.name} does not have the agent of this checkout.", deploy(f))
    if b.private and not wanting:
        yield Check("bucket", "ok", f"{b.name} is there, private and versioned.")


def functions(f: Facts) -> Iterator[Check]:
    if isinstance(f.functions, Unknown):
        yield unknown("functions", f.functions)
        return
    missing = sorted(set(f.handlers) - {each.handler for each in f.functions})
    wrong = [*_wrong_settings(f.functions), *_wrong_roles(f.functions, f.stage)]
    if missing:
        yield Check("functions", "fail", f"Not deployed: {', '.join(missing)}.", deploy(f))
    if wrong:
        yield Check("functions", "fail", f"{'; '.join(wrong)}.", deploy(f))
    agents = {each.environment.get("AGENT_SHA256", "none") for each in f.functions}
    if agents and agents != {f.agent_sha256}:
        theirs = ", ".join(sorted(each[:12] for each in agents))
        sentence = f"Instances run the agent {theirs}, this checkout has {f.agent_sha256[:12]}."
        yield Check("code", "warn", sentence, deploy(f))
    unset = [
        each.handler for each in f.functions if each.called_by_events and (each.retries is None or not each.failed_to)
    ]
    if unset:
        yield Check("retries", "warn", f"No retries or no queue of failed events for {', '.join(unset)}.", deploy(f))
    forever = [each.handler for each in f.functions if each.logs_kept_days is None]
    if forever:
        yield Check(
            "logs", "warn", f"The logs of {', '.join(forever)} are kept for ever, and cost for ever.", deploy(f)
        )
    if not (missing or wrong):
        yield Check("functions", "ok", f"{len(f.functions)} are deployed, and told everything they need.")


def _wrong_settings(found: tuple[Function, ...]) -> Iterator[str]:
    for each in found:
        absent = [name for name in SETTINGS if not each.environment.get(name)]
        if absent:
            yield f"{each.handler} is not told {', '.join(absent)}"
    urls = {each.environment["API_URL"] for each in found if each.environment.get("API_URL")}
    if UNKNOWN_URL in urls:
        yield "the API's address is not known to the functions: a deploy was cut off"
    elif len(urls) > 1:
        yield f"the functions are told different addresses ({', '.join(sorted(urls))})"


def _wrong_roles(found: tuple[Function, ...], stage: str) -> Iterator[str]:
    """Each function has a role of its own, called as its handler is: with another's it may do too little, or too much."""
    for each in found:
        if each.role != f"spot-relay-{stage}-{each.handler}":
            yield f"{each.handler} runs as {each.role}"


def api(f: Facts) -> Iterator[Check]:
    if isinstance(f.api, Unknown):
        yield unknown("api", f.api)
        return
    told = {each.environment.get("API_URL", "") for each in f.functions} if isinstance(f.functions, tuple) else set()
    if not f.api.ids:
        yield Check("api", "fail", "There is no API whose routes call this stage.", deploy(f))
        return
    if not any(each in url for each in f.api.ids for url in told):
        yield Check(
            "api", "fail", f"The functions are told {', '.join(sorted(told))}, which is not the API.", deploy(f)
        )
    elif f.api.status is None:
        yield Check("api", "fail", "The API gives no answer from here.", f"curl -sv {next(iter(told))}/budget")
    elif f.api.status != 200:
        mend = f"aws logs tail /aws/lambda/spot-relay-{f.stage} --region {f.region} --since 10m"
        yield Check("api", "fail", f"The API answers {f.api.status} to GET /budget.", mend)
    else:
        yield Check("api", "ok", "It answers signed calls.")
    if len(f.api.ids) > 1:
        extra = [each for each in f.api.ids if not any(each in url for url in told)]
        mend = " && ".join(f"aws apigateway delete-rest-api --rest-api-id {each} --region {f.region}" for each in extra)
        yield Check("api", "warn", f"A deploy that failed left other APIs behind: {', '.join(extra)}.", mend)
    if f.api.rate_per_s is None:
        yield Check("throttling", "warn", "The API has no limit of its own on requests.", deploy(f))


def sweep(f: Facts) -> Iterator[Check]:
    if isinstance(f.sweep, Unknown):
        yield unknown("sweep", f.sweep)
        return
    logs = f"aws logs tail /aws/lambda/spot-relay-{f.stage}-sweep --region {f.region} --since 1h"
    off = [each.handler for each in f.functions if not each.enabled] if isinstance(f.functions, tuple) else []
    if off:
        rules = " && ".join(
            f"aws events enable-rule --name spot-relay-{f.stage}-{h}-event --region {f.region}" for h in off
        )
        yield Check("rules", "fail", f"The rules that call {', '.join(off)} are switched off.", rules)
    if f.sweep.age_s is None:
        yield Check("sweep", "fail", "It has not run in the last 15 minutes: nothing enforces deadlines.", logs)
    elif f.sweep.age_s > _SWEEP_WARN_S:
        yield Check("sweep", "warn", f"It last ran {f.sweep.age_s:.0f} s ago, and should each minute.", logs)
    else:
        yield Check("sweep", "ok", f"It ran {f.sweep.age_s:.0f} s ago.")
    if f.sweep.failed_events:
        sentence = f"{f.sweep.failed_events} events were given up on; the sweep has since done what they asked for."
        mend = (
            f"aws sqs purge-queue --region {f.region} "
            f"--queue-url $(aws sqs get-queue-url --queue-name spot-relay-{f.stage}-failed --query QueueUrl --output text)"
        )
        yield Check("failed events", "warn", sentence + " Look at the functions' logs, then empty the queue.", mend)


JUDGES: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    around.credentials,
    stack,
    around.network,
    around.image,
    table,
    bucket,
    functions,
    api,
    sweep,
    around.spot_role,
    around.quota,
    around.token,
    around.mail,
)
