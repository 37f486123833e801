"""Judges of what surrounds a deployment: credentials, clock, network, AMI, quota, the Spot role, token and mail. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from spotrelay.doctor.checks import Check, Verdict, unknown, where
from spotrelay.doctor.facts import Facts, Unknown

# AWS refuses signatures that are more than five minutes off.
_SKEW_WARN_S, _SKEW_FAIL_S = 60.0, 240.0
_TOKEN_WARN = timedelta(days=14)


def credentials(f: Facts) -> Iterator[Check]:
    if isinstance(f.identity, Unknown):
        yield Check("credentials", "fail", f"AWS takes no credentials from here: {f.identity.why}.", "aws configure")
        return
    yield Check("credentials", "ok", f"Account {f.identity.account}, as {f.identity.arn}, region {f.region}.")
    skew = f.identity.skew_s
    if skew is None:
        yield Check("clock", "warn", "AWS's answer had no date to compare this machine's clock with.")
    elif abs(skew) >= _SKEW_WARN_S:
        verdict: Verdict = "fail" if abs(skew) >= _SKEW_FAIL_S else "warn"
        ahead = "ahead of" if skew > 0 else "behind"
        sentence = f"This machine's clock is {abs(skew):.0f} s {ahead} AWS's; calls 300 s off are refused."
        yield Check("clock", verdict, sentence, "sudo timedatectl set-ntp true")
    else:
        yield Check("clock", "ok", f"{abs(skew):.0f} s off AWS's.")


def network(f: Facts) -> Iterator[Check]:
    if isinstance(f.network, Unknown):
        yield unknown("network", f.network)
    elif f.network.vpc is None:
        yield Check(
            "network", "fail", f"{f.region} has no default VPC.", f"aws ec2 create-default-vpc --region {f.region}"
        )
    elif not f.network.zones:
        mend = f"aws ec2 create-default-subnet --availability-zone {f.region}a --region {f.region}"
        yield Check("network", "fail", f"The default VPC {f.network.vpc} has no default subnet.", mend)
    elif len(f.network.zones) == 1:
        sentence = f"Only one default subnet ({f.network.zones[0]}): a reclaimed pool has no other zone to go to."
        yield Check("network", "warn", sentence, "aws ec2 create-default-subnet --availability-zone ZONE")
    else:
        yield Check("network", "ok", f"Default VPC {f.network.vpc}, subnets in {', '.join(f.network.zones)}.")


def image(f: Facts) -> Iterator[Check]:
    if isinstance(f.image, Unknown):
        yield unknown("image", f.image)
    elif not f.image:
        sentence = "The AMI that instances boot from is not found in this region."
        yield Check("image", "fail", sentence, f"spotrelay deploy {where(f)} --parameter ImageId=ami-…")
    else:
        yield Check("image", "ok", f"Instances boot from {f.image}.")


def token(f: Facts) -> Iterator[Check]:
    if isinstance(f.token, Unknown):
        yield unknown("token", f.token)
        return
    t = f.token
    again = f"spotrelay secret set {t.name} {where(f)}"
    if not t.stored:
        if t.named:
            yield Check("token", "fail", f"There is no secret {t.name}.", again)
        else:
            yield Check("token", "ok", "No GitHub token is stored: public repositories need none.")
    elif not t.asked:
        yield Check("token", "ok", f"{t.name} is stored; --online asks GitHub until when it holds.")
    elif not t.valid:
        yield Check("token", "fail", f"GitHub refuses {t.name}: it has expired or was revoked.", again)
    elif t.expires_at is None:
        yield Check("token", "warn", f"{t.name} never expires: a fine-grained one with a date is safer.", again)
    elif t.expires_at <= f.now:
        yield Check("token", "fail", f"{t.name} expired on {t.expires_at:%Y-%m-%d}.", again)
    elif t.expires_at - f.now < _TOKEN_WARN:
        yield Check("token", "warn", f"{t.name} expires on {t.expires_at:%Y-%m-%d}.", again)
    else:
        yield Check("token", "ok", f"{t.name} holds until {t.expires_at:%Y-%m-%d}.")


def mail(f: Facts) -> Iterator[Check]:
    if isinstance(f.mail, Unknown):
        yield unknown("mail", f.mail)
    elif f.mail is None:
        return
    elif f.mail.pending:
        sentence = (
            f"{', '.join(f.mail.pending)} has not confirmed: open the mail from AWS Notifications and follow its link."
        )
        yield Check("mail", "warn", sentence)
    elif not f.mail.confirmed:
        yield Check("mail", "warn", "Nobody is told of alarms.", f"spotrelay deploy {where(f)} --email you@example.org")
    else:
        yield Check("mail", "ok", f"Alarms go to {', '.join(f.mail.confirmed)}.")


def quota(f: Facts) -> Iterator[Check]:
    if isinstance(f.quota, Unknown):
        yield unknown("quota", f.quota)
        return
    q = f.quota
    needed = 2 * q.per_instance
    more = (
        f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code L-34B43A08 "
        f"--desired-value {needed} --region {f.region}"
    )
    if q.vcpus < q.per_instance:
        sentence = f"no instance at all: quota {q.vcpus:.0f} vCPU, one {q.instance_type} needs {q.per_instance}"
        yield Check("quota", "fail", sentence, more)
    elif q.vcpus < needed:
        sentence = (
            f"no overlap: quota {q.vcpus:.0f} vCPU, needs {needed} (a replacement starts when its predecessor is gone)"
        )
        yield Check("quota", "warn", sentence, more)
    else:
        yield Check("quota", "ok", f"{q.vcpus:.0f} vCPU of Spot; two {q.instance_type} need {needed}.")


def spot_role(f: Facts) -> Iterator[Check]:
    mend = "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"
    if isinstance(f.spot_role, Unknown):
        yield unknown("Spot role", f.spot_role)
    elif not f.spot_role:
        yield Check(
            "Spot role", "fail", "The account has no service-linked role for Spot: every launch is refused.", mend
        )
    else:
        yield Check("Spot role", "ok", "The account has the service-linked role for Spot.")
