#!/usr/bin/env bash
# Serve the app in /srv/tutorial as tutorials do: three of gunicorn's default workers on a TCP port, behind nginx with the
# configuration of Debian's package. Runs as root on the test machine; nginx listens on port 8080.
set -euo pipefail
python3 -m venv /srv/tutorial/venv
/srv/tutorial/venv/bin/pip install --quiet -r /srv/tutorial/requirements.txt
cat >/etc/systemd/system/tutorial.service <<'UNIT'
[Service]
User=www-data
WorkingDirectory=/srv/tutorial
ExecStart=/srv/tutorial/venv/bin/gunicorn --workers 3 --bind 127.0.0.1:8000 main:app
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
systemctl start tutorial
nginx -c /srv/tutorial/nginx.conf </dev/null >/dev/null 2>&1 # else ssh would wait for its output
