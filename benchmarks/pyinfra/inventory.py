"""The host of the benchmark. The suite sets the variables."""

import os

hosts = [
    (
        os.environ["ADDRESS"],
        {
            "ssh_user": os.environ["LOGIN_USER"],
            "ssh_key": os.environ["KEY"],
            "ssh_known_hosts_file": os.environ["KNOWN_HOSTS"],
            "ssh_strict_host_key_checking": "yes",
            "ssh_allow_agent": False,
            "ssh_look_for_keys": False,
            "_sudo": os.environ["LOGIN_USER"] != "root",
        },
    )
]
