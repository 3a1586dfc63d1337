#!/usr/bin/env bash
# Serve the app in /srv/gunicorn with gunicorn alone: its worker with threads, as many workers and threads as the project
# uses, on TCP port 8090 of all addresses. Runs as root on the host.
set -euo pipefail
umask 022
id gunicorn >/dev/null 2>&1 || useradd --system --create-home --shell /usr/sbin/nologin gunicorn
python3 -m venv /srv/gunicorn/venv
/srv/gunicorn/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r /srv/gunicorn/requirements.txt
cat >/etc/systemd/system/gunicorn.service <<UNIT
[Service]
User=gunicorn
WorkingDirectory=/srv/gunicorn
ExecStart=/srv/gunicorn/venv/bin/gunicorn --worker-class gthread --workers $((2 * $(nproc) + 1)) --threads 4 \\
    --bind 0.0.0.0:8090 bench:app
UNIT
systemctl daemon-reload
systemctl restart gunicorn
