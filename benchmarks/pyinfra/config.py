"""Settings of pyinfra."""

# With libpam-tmpdir, the folder for temporary files is another one for root than for the administrator.
TEMP_DIR = "/tmp"  # noqa: S108
