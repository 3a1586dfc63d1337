"""privacyIDEA behind a proxy: on a Unix socket, only X-Forwarded-For names the client, whose address it requires."""

from flask import Flask
from privacyidea.app import create_app as create_privacyidea
from werkzeug.middleware.proxy_fix import ProxyFix


def create_app() -> Flask:
    """Create the app with the settings of PRIVACYIDEA_CONFIGFILE."""
    app = create_privacyidea(config_name="production", silent=True)
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    return app
