"""What a user does in each app: `write` logs in and leaves something there, `read` logs in again and finds it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import struct
from collections.abc import Callable

from testing import Web, wait_for
from web_client import FORM, Client, Websocket, websocket

ADMIN_OF_MONEY = "ink-sac-5077"
ADMIN_OF_TOKENS = "siphon-3310"
PASSWORD = "three-hearts-8"
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def write_money(web: Web, mark: str) -> None:
    """A project in ihatemoney: log in as administrator, create it, add people and a bill, upload bills."""
    client = Client(web)
    refused = client.get("/create")
    assert refused.status == 200
    assert "/admin" in client.url
    assert client.post(client.url, {"admin_password": ADMIN_OF_MONEY}).status == 200
    assert client.url.endswith("/create")
    project = {"name": mark, "id": mark, "password": PASSWORD, "contact_email": f"{mark}@example.org"}
    assert client.post("/create", project | {"default_currency": "XXX"}).status == 200
    assert client.url.endswith(f"/{mark}/"), client.url
    for name in ("Otto", "Pia"):
        page = client.post(f"/{mark}/members/add", {"name": name, "weight": "1"}, form=f"/{mark}/")
        assert name in page.text
    form = client.get(f"/{mark}/add").text
    people = {name: number for number, name in re.findall(r'<option[^>]*value="(\d+)">(\w+)<', form)}
    bill = {"date": "2026-01-02", "what": "Kraken & Söhne", "payer": people["Otto"], "amount": "30.50"}
    more = {"original_currency": "XXX", "payed_for": list(people.values()), "bill_type": "Expense"}
    assert "Kraken &amp; Söhne" in client.post(f"/{mark}/add", bill | more).text
    uploaded = {"date": "2026-01-03", "what": "Uploaded", "payer_name": "Pia", "payer_weight": 1, "amount": 7.25}
    content = [uploaded | {"owers": ["Otto", "Pia"], "currency": "XXX", "bill_type": "Expense"}]
    page = client.upload(
        f"/{mark}/import", "bills.json", json.dumps(content).encode(), "application/json", {}, form=f"/{mark}/edit"
    )
    assert "Uploaded" in page.text


def enter_money(web: Web, mark: str) -> Client:
    """Log in to a project with its own code."""
    client = Client(web)
    assert client.post("/authenticate", {"id": mark, "password": PASSWORD}).status == 200
    return client


def read_money(web: Web, mark: str) -> None:
    """The project, after a login with its own code."""
    client = enter_money(web, mark)
    page = client.get(f"/{mark}/").text
    assert "Kraken &amp; Söhne" in page
    bills = client.json(f"/{mark}/export/bills.json")
    assert sorted((bill["what"], bill["amount"]) for bill in bills) == [("Kraken & Söhne", 30.5), ("Uploaded", 7.25)]


def write_wiki(web: Web, mark: str) -> None:
    """A page in An Otter Wiki: register, log in, save it, attach a picture."""
    user = {"email": f"{mark}@example.org", "name": "Otto", "password1": PASSWORD, "password2": PASSWORD}
    assert Client(web).post("/-/register", user).status == 200
    client = enter_wiki(web, mark)
    text = {"content": f"# {mark}\n\nEight *arms* für alle.", "commit": "First version"}
    page = client.post(f"/{mark}/save", text, form=f"/{mark}/edit")
    assert (page.status, "Eight <em>arms</em> für alle." in page.text) == (200, True), page.text
    files = client.upload(
        f"/{mark}/attachments", "arm.png", PICTURE, "image/png", {"message": "", "filename": ""}, form=f"/{mark}"
    )
    assert "arm.png" in files.text


def enter_wiki(web: Web, mark: str) -> Client:
    """Log in to the wiki."""
    client = Client(web)
    fields = {"email": f"{mark}@example.org", "password": PASSWORD, "remember": "1", "next": ""}
    assert client.post("/-/login", fields).status == 200
    assert "/-/login" not in client.url
    return client


def read_wiki(web: Web, mark: str) -> None:
    """The page, its history in Git and its picture; without a login, nothing."""
    stranger = Client(web)
    stranger.get(f"/{mark}")
    assert "/-/login" in stranger.url
    client = enter_wiki(web, mark)
    assert "Eight <em>arms</em> für alle." in client.get(f"/{mark}").text
    assert "First version" in client.get(f"/{mark}/history").text
    picture = client.get(f"/{mark}/a/arm.png")
    assert (picture.status, picture.headers["Content-Type"]) == (200, "image/png")
    assert int(picture.headers["Content-Length"]) == len(PICTURE)


def write_tokens(web: Web, mark: str) -> None:
    """A token in privacyIDEA: log in as administrator and upload a file with it."""
    client = Client(web)
    refused = client.request("POST", "/auth", b"username=admin&password=wrong", Content_Type=FORM)
    assert refused.status == 401, refused.text
    line = f"{mark}, {otp_key(mark).hex()}, hotp, 6\n".encode()
    boundary = "8arms"
    fields = f'--{boundary}\r\nContent-Disposition: form-data; name="type"\r\n\r\noathcsv\r\n--{boundary}\r\n'
    head = 'Content-Disposition: form-data; name="file"; filename="tokens.csv"\r\nContent-Type: text/csv\r\n\r\n'
    body = f"{fields}{head}".encode() + line + f"\r\n--{boundary}--\r\n".encode()
    answer = client.request(
        "POST",
        "/token/load/tokens.csv",
        body,
        Content_Type=f"multipart/form-data; boundary={boundary}",
        Authorization=authorization(client),
    )
    assert (answer.status, answer.json["result"]["value"]["n_imported"]) == (200, 1), answer.text
    assert validated(client, mark, one_time_password(otp_key(mark), 0))


def authorization(client: Client) -> str:
    """Log in as privacyIDEA's administrator."""
    body = f"username=admin&password={ADMIN_OF_TOKENS}".encode()
    answer = client.request("POST", "/auth", body, Content_Type=FORM)
    assert answer.status == 200, answer.text
    return str(answer.json["result"]["value"]["token"])


def validated(client: Client, serial: str, password: str) -> bool:
    """Whether privacyIDEA accepts a one-time password."""
    body = f"serial={serial}&pass={password}".encode()
    return bool(client.request("POST", "/validate/check", body, Content_Type=FORM).json["result"]["value"])


def otp_key(mark: str) -> bytes:
    return hashlib.sha1(mark.encode()).digest()


def one_time_password(key: bytes, counter: int) -> str:
    """A one-time password; see RFC 4226."""
    digest = hmac.new(key, struct.pack(">Q", counter), hashlib.sha1).digest()
    start = digest[-1] & 0x0F
    return f"{(int.from_bytes(digest[start : start + 4], 'big') & 0x7FFFFFFF) % 10**6:06}"


def read_tokens(web: Web, mark: str) -> None:
    """The token: its secret can still be decrypted, and the password that was used is refused."""
    client = Client(web)
    listed = client.json(f"/token/?serial={mark}", Authorization=authorization(client))
    assert [token["serial"] for token in listed["result"]["value"]["tokens"]] == [mark]
    count = int(listed["result"]["value"]["tokens"][0]["count"])
    assert count > 0
    assert not validated(client, mark, one_time_password(otp_key(mark), 0))
    assert validated(client, mark, one_time_password(otp_key(mark), count))


def write_geo(web: Web, mark: str) -> None:
    """A point in pygeoapi, and a job that runs in the background."""
    client = Client(web)
    feature = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 4]}, "properties": {"name": mark}}
    client.json("/collections/sightings/items", feature, Content_Type="application/geo+json")
    order = json.dumps({"inputs": {"name": mark}}).encode()
    answer = client.request(
        "POST", "/processes/hello-world/execution", order, Content_Type="application/json", Prefer="respond-async"
    )
    assert answer.status == 201, answer.text
    job = answer.headers["Location"]
    wait_for(lambda: client.json(f"{job}?f=json")["status"] == "successful", 10, "the job is done")


def read_geo(web: Web, mark: str) -> None:
    """The point, the result of the job, and a grid that rasterio and numpy read."""
    client = Client(web)
    features = client.json("/collections/sightings/items?f=json&limit=100")["features"]
    assert [f["geometry"]["coordinates"] for f in features if f["properties"]["name"] == mark] == [[3, 4]]
    jobs = client.json("/jobs?f=json&limit=100")["jobs"]
    results = [json.dumps(client.json(f"/jobs/{job['jobID']}/results?f=json")) for job in jobs]
    assert len([result for result in results if mark in result]) == 1
    grid = client.json("/collections/depths/coverage?f=json&bbox=2,2,4,4")
    (values,) = grid["ranges"].values()
    assert values["values"] == [34.0, 35.0, 42.0, 43.0]


def write_terminal(web: Web, mark: str) -> None:
    """A file, written by a shell in the browser's terminal."""
    assert f"{mark}-42" in in_terminal(web, f"echo {mark}-$((6*7)) | tee $DATA_DIR/{mark}", f"{mark}-42")


def read_terminal(web: Web, mark: str) -> None:
    assert f"{mark}-42" in in_terminal(web, f"cat $DATA_DIR/{mark}", f"{mark}-42")


def in_terminal(web: Web, command: str, expected: str) -> str:
    """Type a command in pyxtermjs' terminal and return what it shows, up to a text; Socket.IO, protocol 5."""
    for _ in range(2):  # pyxtermjs answers the first connection of its life with an error; browsers connect again
        with websocket(web, "/socket.io/?EIO=4&transport=websocket") as wire:
            assert wire.receive().startswith("0{")
            wire.send("40/pty,")
            if not next_message(wire).startswith("40/pty,"):
                continue
            wire.send("42/pty," + json.dumps(["pty-input", {"input": f"{command}\n"}]))
            shown = ""
            while expected not in shown:
                message = next_message(wire)
                assert message, f"closed after {shown!r}"
                if message.startswith("42/pty,"):
                    shown += json.loads(message.removeprefix("42/pty,"))[1]["output"]
            return shown
    raise AssertionError("the terminal accepts no connection")


def next_message(wire: Websocket) -> str:
    """The next message that is no ping of Engine.IO; pings are answered."""
    while (message := wire.receive()) == "2":
        wire.send("3")
    return message


Step = Callable[[Web, str], None]
STEPS: dict[str, tuple[Step, Step]] = {
    "money": (write_money, read_money),
    "wiki": (write_wiki, read_wiki),
    "tokens": (write_tokens, read_tokens),
    "geo": (write_geo, read_geo),
    "terminal": (write_terminal, read_terminal),
}
# Pages that need no login, each with a text that its scripts or its templates show.
PAGES = [
    ("money", "/", "Log in to an existing project"),
    ("money", "/admin?goto=%2Fcreate", "Admin password"),
    ("wiki", "/-/login", "Remember me"),
    ("wiki", "/-/register", "Confirm"),
    ("tokens", "/", "Log In With Passkey"),
    ("geo", "/collections", "Sightings"),
    ("geo", "/collections/depths?f=html", "A grid of depths"),
    ("geo", "/openapi?f=html", "swagger-ui"),
    ("terminal", "/", "pyxterm.js"),
]
# Pages behind a login: how to log in, and the pages, each with a text. MARK is the project or the page of `write`.
PRIVATE_PAGES: dict[str, tuple[Callable[[Web, str], Client], dict[str, str]]] = {
    "money": (enter_money, {"/MARK/": "Kraken &amp; Söhne", "/MARK/statistics": "Otto"}),
    "wiki": (
        enter_wiki,
        {"/MARK": "Eight <em>arms</em>", "/MARK/edit": "Eight *arms*", "/MARK/attachments": "arm.png"},
    ),
}
# A file of each app whose files nginx serves.
FILES = {
    "money": ("/static/css/main.css", "text/css"),
    "wiki": ("/static/js/halfmoon.js", "application/javascript"),
    "geo": ("/static/css/default.css", "text/css"),
}
