#!/usr/bin/env bash
# Serve the app in /srv/tutorial as tutorials do: three of gunicorn's default workers on a TCP port, behind nginx with the
# configuration of Debian's package. Runs as root on the host; nginx listens on port 8080.
set -euo pipefail
umask 022
id tutorial >/dev/null 2>&1 || useradd --system --create-home --shell /usr/sbin/nologin tutorial
python3 -m venv /srv/tutorial/venv
/srv/tutorial/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r /srv/tutorial/requirements.txt
cat >/etc/systemd/system/tutorial.service <<'UNIT'
[Service]
User=tutorial
WorkingDirectory=/srv/tutorial
ExecStart=/srv/tutorial/venv/bin/gunicorn --workers 3 --bind 127.0.0.1:8000 bench:app
UNIT
cat >/etc/systemd/system/tutorial-nginx.service <<'UNIT'
[Service]
Type=forking
PIDFile=/run/tutorial-nginx.pid
ExecStart=/usr/sbin/nginx -c /srv/tutorial/nginx.conf
UNIT
cat >/srv/tutorial/nginx.conf <<'NGINX'
user www-data;
worker_processes auto;
pid /run/tutorial-nginx.pid;
events {
    worker_connections 768;
}
http {
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/tutorial.log;
    error_log /var/log/nginx/tutorial-error.log;
    gzip on;
    server {
        listen 8080;
        location / {
            proxy_pass http://127.0.0.1:8000;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }
    }
}
NGINX
systemctl daemon-reload
systemctl restart tutorial tutorial-nginx
