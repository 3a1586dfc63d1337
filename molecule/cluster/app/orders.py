"""An app for the tests of many machines: each GET reads the database that all webservers share, each POST writes to it.

As a program, it is the release command: it creates the tables, and records that it has run.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psycopg
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

VERSION = (Path(__file__).parent / "version.txt").read_text().strip()
app = Flask(__name__)


def connect() -> psycopg.Connection:
    return psycopg.connect(os.environ["DATABASE_URL"])


@app.route("/", methods=["GET", "POST"])
def index() -> ResponseReturnValue:
    with connect() as database:
        if request.method == "POST":
            database.execute("insert into orders values (%s)", [int(request.headers["X-Number"])])
        count = database.execute("select count(*) from orders").fetchone()
    return jsonify(version=VERSION, answered_by=socket.gethostname(), orders=count and count[0])


@app.get("/healthz")
def healthz() -> ResponseReturnValue:
    return "ok\n"


if __name__ == "__main__":
    with connect() as database:
        database.execute("create table if not exists orders (number bigint)")
        database.execute("create table if not exists migrations (version text, host text)")
        database.execute("insert into migrations values (%s, %s)", [VERSION, socket.gethostname()])
