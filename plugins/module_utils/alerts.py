"""The program that a timer runs on a host: check for problems, and send each one once, and once more when it has ended.

It runs as a user without rights. The role alert installs copies of this module and of those that it imports.
"""

from __future__ import annotations

import base64
import http.client
import json
import smtplib
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.app_log import clean
from ansible_collections.blueoctopus.site.plugins.module_utils.app_status import (
    APPS,
    certificates_of_balancer,
    describe_service,
    parse_time,
    read_events,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.checks import Problem, find_problems
from ansible_collections.blueoctopus.site.plugins.module_utils.files import write
from ansible_collections.blueoctopus.site.plugins.module_utils.host_state import (
    ALERTS,
    describe_backup,
    disks,
    failed_units,
    read_alerts,
    read_json,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.shipped_logs import describe_logs
from ansible_collections.blueoctopus.site.plugins.module_utils.traffic import WINDOW, read_traffic

SETTINGS = Path("/etc/alert/settings.json")
EVENTS = Path("/run/alert-events/history")  # which root writes before each check, if deploys are to be sent
REPLICATION = Path("/run/alert-replication/status.json")  # which root writes before each check
CONFIRMED = 2  # checks in a row that find a problem, or do not find it any more: a restart is no trouble
TIMEOUT = 10  # seconds to send a message
TIME_TO_SEND = 30.0  # seconds in one check
MOST_WAITING = 100  # messages; then the oldest are dropped
REFUSED = (400, 413, 415, 422)  # statuses about the message; others, such as 404, are about the address or the server
TOO_LARGE = 552  # the status of a mail server
MOST_LOG = 1000  # characters of a log in a message
LONGEST_WAIT = 3 * 86400  # seconds; then a message is dropped
FIRST_PAUSE, LONGEST_PAUSE = 60, 1800  # seconds between two attempts to send
SAMPLE_EVERY = 300  # seconds
SAMPLES_KEPT = 288  # a day
State = dict[str, Any]


def iso(moment: float) -> str:
    """A time in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


# --- measure --------------------------------------------------------------------------------------------------------


def measure(samples: list[dict[str, Any]], now: float) -> dict[str, Any]:
    """The state of the host, as far as a user without rights can read it."""
    names = sorted(path.parent.name for path in APPS.glob("*/live") if path.is_symlink())
    traffic = read_traffic(names, now - WINDOW, now, WINDOW, seconds=5)
    apps = [{**describe_service(name), "requests": traffic.summary(name)} for name in names]
    return {
        "apps": apps,
        "certificates": certificates_of_balancer(),
        "disks": disks(),
        "failed_units": failed_units(),
        "backup": describe_backup(),
        "logs": describe_logs(),
        "replication": read_json(REPLICATION),
        "alerts": {"samples": samples},
    }


def add_sample(samples: list[dict[str, Any]], host: Mapping[str, Any], now: float) -> list[dict[str, Any]]:
    """The samples of the last day: used bytes of disks, for their trend, and memory of apps, for the report."""
    samples = [sample for sample in samples if now - 86400 < sample["time"] <= now]
    if samples and now - samples[-1]["time"] < SAMPLE_EVERY:
        return samples
    memory = {app["name"]: app["memory_mib"] << 20 for app in host["apps"] if app["live"]}
    used = {disk["mount"]: disk["used_bytes"] for disk in host["disks"]}
    return [*samples, {"time": int(now), "memory": memory, "disks": used}][-SAMPLES_KEPT:]


# --- what is new ----------------------------------------------------------------------------------------------------


def message(state: str, entry: Mapping[str, str], host: str, now: float, since: float) -> dict[str, Any]:
    """A message about a problem. `text` is what chat programs show."""
    words = {"problem": "", "over": "resolved: ", "event": ""}[state]
    app = f" {entry['app']}" if entry["app"] else ""
    fields = {key: entry[key] for key in ("app", "kind", "subject")}
    text = f"{host}{app}: {words}{entry['text']}"
    return {"text": text, "host": host, **fields, "state": state, "since": iso(since), "time": iso(now)}


def news(known: dict[str, Any], problems: list[Problem], host: str, now: float, with_log: bool) -> list[dict[str, Any]]:
    """The messages that are due, once for each problem and once for its end; remembers them in `known`.

    Args:
        known: the problems of earlier checks.
        problems: those of this check.
        host: name of the host.
        now: seconds since 1970.
        with_log: whether a message may contain what the app has logged.
    """
    found = {f"{entry['kind']} {entry['app']} {entry['subject']}": entry for entry in problems}
    messages = []
    for key, entry in found.items():
        before = known.setdefault(key, {"since": now, "seen": 0, "is_sent": False})
        before |= {"seen": before["seen"] + 1, "missing": 0, "entry": {**entry, "log": ""}}
        if not before.get("is_sent") and before["seen"] >= CONFIRMED:
            before["is_sent"] = True
            log = {"log": entry["log"][:MOST_LOG]} if with_log and entry["log"] else {}
            messages.append({**message("problem", entry, host, now, before["since"]), **log})
    for key in [key for key in known if key not in found]:
        before = known[key]
        before["missing"] = before.get("missing", 0) + 1
        if not before.get("is_sent"):
            del known[key]
        elif before["missing"] >= CONFIRMED:
            messages.append(message("over", before["entry"], host, now, before["since"]))
            del known[key]
    return messages


def new_events(state: State, host: str, now: float, with_log: bool, path: Path = EVENTS) -> list[dict[str, Any]]:
    """Messages about the deploys and rollbacks since the last check: what, who, how it ended."""
    events = sorted(read_events(path), key=lambda found: found[1]["time"])
    # By their keys, not by the time of the last one: a clock may have been ahead.
    keys = [[app, event["time"], str(event["release"])] for app, event in events]
    known = state.get("events")
    if keys or known is None:
        state["events"] = keys
    messages = []
    for key, (app, event) in zip(keys, events, strict=True):
        if known is None or key in known:
            continue
        commit, by = (clean(str(event.get(key) or "")) for key in ("commit", "by"))
        release = event["release"] or "the first release"
        what = f"{event['action']} of {release}{f' (commit {commit[:12]})' if commit else ''}"
        entry = {"app": app, "kind": "deploy", "subject": str(event["release"])}
        entry["text"] = f"{what}{f' by {by}' if by else ''}: {event['result']}"
        log = {"log": clean(str(event["reason"])[:MOST_LOG])} if with_log and event.get("reason") else {}
        messages.append({**message("event", entry, host, now, parse_time(event["time"]) or now), **log})
    return messages


# --- send -----------------------------------------------------------------------------------------------------------


class MessageRefused(OSError):
    """A message that can never be sent, while others may be."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would change the method to GET or the address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs


def send_webhook(url: str, content: Mapping[str, Any]) -> None:
    """Send a message as JSON.

    Raises:
        OSError: when the receiver can't be reached, or does not accept it.
    """
    if not url.startswith(("http://", "https://")):
        raise OSError("the address is not an HTTP URL")
    headers = {"Content-Type": "application/json", "User-Agent": "blueoctopus-alert"}
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # its text may contain the password
        raise OSError("the address is not valid") from None
    login, at, server = parts.netloc.rpartition("@")
    if at:
        pair = urllib.parse.unquote(login).encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    address = parts._replace(netloc=server).geturl()
    request = urllib.request.Request(address, json.dumps(content).encode(), headers, method="POST")
    with urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT) as response:
        response.read(1024)


def letter_of(content: Mapping[str, Any]) -> EmailMessage:
    """A message as a mail, without its addresses.

    Raises:
        MessageRefused: when it can't be written as a mail.
    """
    letter = EmailMessage()
    lines = [content["text"], "", f"since {content['since']}, checked {content['time']}"]
    lines += ["", content["log"]] if content.get("log") else []
    try:
        letter["Subject"] = clean(content["text"]).replace("\n", " ")[:200]
        letter.set_content(clean("\n".join(lines)))
    except ValueError as error:
        raise MessageRefused(reason_of(error)) from error
    return letter


def send_mail(mail: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Send a message by mail.

    Args:
        mail: the settings: to, from, host, port, tls (starttls, tls or none), user, password.
        content: the message.

    Raises:
        MessageRefused: when the server will never accept it, or it can't be written as a mail.
        OSError: when the server can't be reached, or does not accept it now.
    """
    letter = letter_of(content)
    letter["From"], letter["To"] = mail["from"], ", ".join(mail["to"])
    context = ssl.create_default_context()
    try:
        if mail["tls"] == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(mail["host"], mail["port"], timeout=TIMEOUT, context=context)
        else:
            server = smtplib.SMTP(mail["host"], mail["port"], timeout=TIMEOUT)
        with server:
            if mail["tls"] == "starttls":
                server.starttls(context=context)
            if mail["user"]:
                server.login(mail["user"], mail["password"])
            server.send_message(letter)
    except smtplib.SMTPException as error:
        raise (MessageRefused if is_refused(error) else OSError)(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Why a message could not be sent, in one line."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the receiver answered with status {error.code}"
    if isinstance(error, urllib.error.URLError):
        return clean(str(error.reason))
    if isinstance(error, http.client.InvalidURL):  # its text may hold a part of a password
        return "the address is not valid"
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        return clean(f"the mail server answered {error.smtp_code} {text}").replace("\n", " ")[:200]
    return clean(str(error) or type(error).__name__).replace("\n", " ")[:200]


def is_refused(error: Exception) -> bool:
    """Whether the receiver will never accept this message, while it may accept others.

    A sender or a recipient that is refused is no property of the message: all mails have the same.
    """
    if isinstance(error, urllib.error.HTTPError):
        return error.code in REFUSED
    if isinstance(error, smtplib.SMTPSenderRefused):  # the command for the sender also tells the size
        return error.smtp_code == TOO_LARGE
    if isinstance(error, smtplib.SMTPDataError):
        return 500 <= error.smtp_code <= 599
    return isinstance(error, MessageRefused)


Send = Callable[[Mapping[str, Any]], None]
Store = Callable[[State], None]
# urllib raises the last two for answers that are no valid HTTP.
ERRORS = (OSError, ValueError, http.client.HTTPException)


def deliver(state: State, channels: Mapping[str, Send], now: float, store: Store = lambda _: None) -> None:
    """Send the waiting messages, the oldest first. A channel that fails is tried again later, with growing pauses.

    Args:
        state: `waiting`, the messages, each with the `channels` that still have to get it, and `attempts` of channels.
        channels: the function of each channel that sends a message.
        now: seconds since 1970.
        store: stores the state after each message that was sent: a check that is killed later sends none twice.
    """
    waiting, attempts = state.setdefault("waiting", []), state.setdefault("attempts", {})
    deadline = time.monotonic() + TIME_TO_SEND
    for channel, send in channels.items():
        failed = attempts.get(channel, {})
        if now < failed.get("next", 0) <= now + LONGEST_PAUSE:  # a later time is of a clock that was ahead
            continue
        for entry in waiting:
            if channel not in entry["channels"] or time.monotonic() > deadline:
                continue
            try:
                send(entry["message"])
            except ERRORS as error:
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failed.get("count", 0), 10))
                began = failed.get("since") or iso(now)
                attempts[channel] = {"since": began, "count": failed.get("count", 0) + 1, "next": now + pause}
                attempts[channel]["error"] = reason_of(error)
                if not is_refused(error):
                    break
                # Another attempt would fail too, and delay the next messages.
                entry["channels"].remove(channel)
                attempts[channel] |= {"next": 0, "error": f"{reason_of(error)}; a message was dropped"}
                failed = attempts[channel]
                store(state)
                continue
            entry["channels"].remove(channel)
            attempts.pop(channel, None)
            failed = {}
            store(state)
    for gone in [name for name in attempts if name not in channels]:
        del attempts[gone]
    fresh = [
        entry for entry in waiting if set(entry["channels"]) & set(channels) and now - entry["time"] < LONGEST_WAIT
    ]
    state["waiting"] = fresh[-MOST_WAITING:]
    state["delivery"] = {}
    if attempts:
        name, failed = min(attempts.items(), key=lambda item: item[1]["since"])
        reason = f"{name}: {failed['error']}"
        state["delivery"] = {"failing_since": failed["since"], "error": reason, "waiting": len(state["waiting"])}


# --- one check ------------------------------------------------------------------------------------------------------


def channels_of(settings: Mapping[str, Any]) -> dict[str, Send]:
    """The channels that are set."""
    channels: dict[str, Send] = {}
    if url := settings.get("webhook"):
        channels["webhook"] = lambda content: send_webhook(str(url), content)
    if (mail := settings.get("mail")) and mail.get("to"):
        channels["mail"] = lambda content: send_mail(mail, content)
    return channels


def check(
    settings: Mapping[str, Any], state: State, host: Mapping[str, Any], now: float, store: Store = lambda _: None
) -> None:
    """Compare the state of the host with the last check, and send what is new. Changes `state`, and stores it."""
    name, with_log = str(settings["host"] or socket.gethostname()), bool(settings.get("log"))
    channels = channels_of(settings)
    messages = news(state.setdefault("problems", {}), find_problems(host, now), name, now, with_log)
    if settings.get("deploys"):
        messages += new_events(state, name, now, with_log)
    waiting = state.setdefault("waiting", [])
    waiting += [{"time": now, "channels": list(channels), "message": content} for content in messages]
    state["samples"] = add_sample(state.get("samples", []), host, now)
    state["checked"] = iso(now)
    store(state)  # before anything is sent: systemd ends a check that takes too long
    deliver(state, channels, now, store)
    store(state)


def save(state: State, paths: tuple[Path, ...] = ALERTS) -> None:
    """Store the state. On a full disk, the copy in memory is enough.

    Raises:
        OSError: when none can be written.
    """
    errors = []
    for path in paths:
        try:
            write(path, json.dumps(state), 0o600)
        except OSError as error:
            errors.append(error)
    if len(errors) == len(paths):
        raise errors[0]


def main() -> None:
    settings, now = json.loads(SETTINGS.read_text()), time.time()
    state = read_alerts() or {}
    host = measure(state.get("samples", []), now)
    check(settings, state, host, now, save)
