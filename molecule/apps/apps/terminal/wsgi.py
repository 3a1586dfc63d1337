"""A terminal in the browser; pyxtermjs reads these settings from its command line otherwise."""

import os

from pyxtermjs.app import app

app.config["SECRET_KEY"] = os.environ["SECRET_KEY"]
app.config["cmd"] = ["/bin/sh"]
