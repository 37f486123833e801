#!/bin/bash
# Spot Relay's boot script: the user data of every instance, the same for every run. It arms the dead-man's switch, learns
# from the instance's tags which attempt this is, fetches the agent from the bucket, and runs it. Whatever happens, the
# instance is powered off in the end; what went wrong here is reported as `boot_failed` first, as far as that can be done.
#
# SPOT_RELAY_ROOT, AWS_ENDPOINT_URL and AWS_EC2_METADATA_SERVICE_ENDPOINT are empty on EC2; a rehearsal sets them, and puts
# its own `shutdown`, `useradd`, `iptables`… in front of PATH. So privileged commands are called by name, never by path.

# First of all: a lease is 50 minutes from when the launch was asked for, the grace 5, and booting takes some of that. If
# nothing below works, the instance still ends when its money does. The agent arms it anew when it knows the lease.
shutdown -P +50

set -euo pipefail
umask 022
root="${SPOT_RELAY_ROOT:-}"
imds="${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}"
imds="${imds%/}"
scale="${SPOT_RELAY_TIME_SCALE:-1}"
step="starting" detail=""
api="" run="" attempt="" region="" key_id="" secret_key="" session_token="" token=""

say() { echo "spot-relay boot: $*"; }

pause() { sleep "$(awk -v seconds="$1" -v scale="$scale" 'BEGIN { print seconds * scale }')"; }

# Try a command up to six times, waiting longer each time: the metadata service, a fresh role and S3 may need a moment.
retry() {
  local wait=1 try
  for try in 1 2 3 4 5 6; do
    "$@" && return 0
    [ "$try" = 6 ] && break
    pause "$wait"
    wait=$((wait * 2))
  done
  return 1
}

power_off() {
  trap - ERR EXIT
  set +e
  say "powering off"
  # Not `halt`: a halted instance stays billed. If this fails too, the switch armed above remains.
  shutdown -P now || systemctl poweroff
  exit "${1:-0}"
}

# What curl needs to sign, as its configuration on stdin: arguments can be read by every process of the machine.
signing() {
  printf 'user = "%s:%s"\n' "$key_id" "$secret_key"
  printf 'aws-sigv4 = "aws:amz:%s:%s"\n' "$region" "$1"
  [ -z "$session_token" ] || printf 'header = "x-amz-security-token: %s"\n' "$session_token"
}

report() {
  local message
  message="$(printf '%s' "$1" | tr -d '"\\' | tr -c '[:print:]' ' ')"
  signing execute-api | curl -sSf --max-time 20 -o /dev/null -K - -X POST -H 'content-type: application/json' \
    --data "{\"code\":null,\"reason\":\"boot_failed\",\"message\":\"$message\",\"step\":null,\"drained\":false,\"results\":null}" \
    "$api/attempts/$run/$attempt/exit"
}

# An agent that was killed leaves its trainer behind: what it trains from now on nobody would publish.
stop_training() {
  local leader
  leader="$(cat "$root/opt/spot-relay/trainer" 2>/dev/null)" && [ -n "$leader" ] && kill -KILL -- "-$leader"
}

fail() {
  trap - ERR EXIT
  set +e
  stop_training
  local message="The boot script failed while $step${detail:+: $detail}."
  say "$message"
  if [ -n "$api" ] && [ -n "$run" ] && [ -n "$attempt" ]; then
    [ -n "$key_id" ] || credentials
    retry report "$message" || say "the controller could not be told"
  fi
  power_off 1
}
trap fail ERR
trap 'fail' EXIT

metadata_token() {
  token="$(curl -sSf --noproxy '*' --max-time 3 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600' "$imds/latest/api/token")"
}

metadata() {
  printf 'header = "X-aws-ec2-metadata-token: %s"\n' "$token" |
    curl -sSf --noproxy '*' --max-time 3 -K - "$imds/latest/meta-data/$1"
}

read_tags() {
  stage="$(metadata tags/instance/spot-relay:stage)" &&
    run="$(metadata tags/instance/spot-relay:run)" &&
    attempt="$(metadata tags/instance/spot-relay:attempt)" &&
    api="$(metadata tags/instance/spot-relay:api)" &&
    bucket="$(metadata tags/instance/spot-relay:bucket)" &&
    agent="$(metadata tags/instance/spot-relay:agent)"
}

read_region() { region="$(metadata placement/region)"; }

field() { printf '%s' "$2" | tr -d '\n' | sed -n "s/.*\"$1\"[[:space:]]*:[[:space:]]*\"\([^\"]*\)\".*/\1/p"; }

credentials() {
  local role document
  role="$(metadata iam/security-credentials/)" || return 1
  document="$(metadata "iam/security-credentials/${role%%[[:space:]]*}")" || return 1
  key_id="$(field AccessKeyId "$document")"
  secret_key="$(field SecretAccessKey "$document")"
  session_token="$(field Token "$document")"
  [ -n "$key_id" ] && [ -n "$secret_key" ]
}

fetch_agent() {
  local url="https://$bucket.s3.$region.amazonaws.com/agent/$agent.zip"
  [ -z "${AWS_ENDPOINT_URL:-}" ] || url="${AWS_ENDPOINT_URL%/}/$bucket/agent/$agent.zip"
  signing s3 | curl -sSf --connect-timeout 10 --max-time 120 -K - -o "$home/agent.zip" "$url" || return 1
  local found
  found="$(python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$home/agent.zip")"
  [ "$found" = "$agent" ] || { say "the agent's hash is $found, not $agent"; return 1; }
}

step="asking the metadata service for a token"
retry metadata_token
step="reading the instance's tags"
retry read_tags
say "run $run, attempt $attempt, stage $stage"
step="asking for the region"
region="${AWS_REGION:-${AWS_DEFAULT_REGION:-}}"
[ -n "$region" ] || retry read_region
export AWS_REGION="$region" AWS_DEFAULT_REGION="$region"
step="asking for the instance role's credentials"
retry credentials

step="making the folders"
home="$root/opt/spot-relay"
mkdir -p "$home" "$root/home/ubuntu" "$root/var/log/spot-relay"
# Ubuntu closes home directories to others; the training user must pass through this one.
chmod o+x "$root/home/ubuntu"

step="making the training user"
useradd --create-home --shell /bin/bash relay || [ $? = 9 ]   # 9: it exists already
step="blocking the metadata service for the training user"
# Otherwise the user's code could take the instance role's credentials. Without this rule nothing of theirs is started.
iptables -w 10 -I OUTPUT -d 169.254.169.254 -m owner --uid-owner relay -j REJECT

step="fetching the agent"
detail="s3://$bucket/agent/$agent.zip can't be read, or its hash differs: run make deploy again"
retry fetch_agent
detail=""
step="unpacking the agent"
rm -rf "$home/agent"
mkdir -p "$home/agent"
python3 -m zipfile -e "$home/agent.zip" "$home/agent"

# Not exec: should the agent break before it can power off by itself, this script does.
step="running the agent"
say "starting the agent"
trap - ERR
set +e
PYTHONUNBUFFERED=1 python3 "$home/agent"
code=$?
set -e
if [ "$code" != 0 ]; then
  detail="it ended with code $code"
  fail
fi
power_off 0
