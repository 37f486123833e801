"""The control API of the rehearsal's EC2: JSON over HTTP on loopback. `ec2_control.HostControl` is its client."""

from __future__ import annotations

import http.server
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from spotrelay.rehearsal.ec2_market import Market, Refusal

if TYPE_CHECKING:
    from spotrelay.rehearsal.ec2_host import Host


class Control(http.server.BaseHTTPRequestHandler):
    """The control API: JSON in, JSON out; wrong input is a 400, an unknown instance a 404, with `{"error"}`."""

    host: Host

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the caller knows what it asked."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        try:
            self._answer(200, look(self.host, address.path, query))
        except KeyError as error:
            self._answer(404, {"error": f"no such path, or missing: {error}"})

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            if body.get("id", "") and body["id"] not in self.host.machines:
                self._answer(404, {"error": f"no instance {body['id']}"})
                return
            self._answer(200, act(self.host, self.path, body))
        except LookupError as error:
            self._answer(400, {"error": f"unknown or missing: {error}"})
        except (ValueError, TypeError) as error:
            self._answer(400, {"error": str(error)})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def look(host: Host, path: str, query: dict[str, str]) -> object:
    """What a control request wants to see. KeyError: unknown path or missing parameter."""
    match path:
        case "/instances":
            return host.instances()
        case "/events":
            return host.emulator.events()
        case "/market":
            return {"spot_vcpus": host.market.spot_vcpus, "failing": list(host.market.failing)}
        case "/prices":
            prices = host.market.whole_history((query["type"], query["az"]))
            return [{"at": at.isoformat(), "usd_hour": price} for at, price in prices]
    raise KeyError(path)


def act(host: Host, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Do what a control request asks. LookupError: unknown path or missing key; ValueError: bad value."""
    match path:
        case "/interrupt":
            return host.interrupt(body["id"], body.get("notice_s"))
        case "/kill":
            host.kill(body["id"])
        case "/rebalance":
            host.rebalance(body["id"])
        case "/poweroff":
            host.poweroff(body["id"], body.get("in_minutes"), bool(body.get("cancel")))
        case "/pool":
            _change_pool(host.market, body)
        case "/quota":
            host.market.spot_vcpus = None if body["spot_vcpus"] is None else int(body["spot_vcpus"])
        case "/failing":
            unknown = set(body["services"]) - {"pricing", "servicequotas"}
            if unknown:
                raise ValueError(f"services are pricing and servicequotas, not {', '.join(sorted(unknown))}")
            host.market.failing = tuple(body["services"])
        case "/events":
            if body["mode"] not in ("deliver", "lose", "duplicate", "delay"):
                raise ValueError(f"mode is deliver, lose, duplicate or delay, not {body['mode']}")
            host.emulator.mode, host.emulator.delay_s = body["mode"], float(body.get("delay_s") or 0)
            host.emulator.only = tuple(body.get("detail_types") or ())
        case "/emulator":
            keys = (str(body.get("access_key_id") or "test"), str(body.get("secret_access_key") or "test"))
            host.emulator.use(body["endpoint"], str(body.get("key") or ""), keys)
        case "/boot":
            host.boot_delay_s = float(body.get("delay_s", host.boot_delay_s))
            host.end_delay_s = float(body.get("end_delay_s", host.end_delay_s))
            host.boot_fails = bool(body.get("fail", host.boot_fails))
        case "/shutdown":
            host.closing.set()
        case _:
            raise LookupError(path)
    return {"ok": True}


def _change_pool(market: Market, body: dict[str, Any]) -> None:
    pool = (body["type"], body["az"])
    with market.lock:
        if body.get("reset"):
            market.reset(pool)
        if body.get("capacity") is not None:
            market.capacity[pool] = int(body["capacity"])
        if body.get("error"):
            code, _, message = str(body["error"]).partition(":")
            market.errors[pool] = Refusal(code, message or f"{code} (rehearsal)")
        if body.get("price") is not None:
            market.set_price(pool, float(body["price"]), datetime.now(UTC))
