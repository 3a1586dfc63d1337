"""Print the processor seconds that the processes of a user have taken so far. Runs on the host, with its own Python."""

import os
import pwd
import sys

uid = pwd.getpwnam(sys.argv[1]).pw_uid
ticks = 0
for name in os.listdir("/proc"):
    try:
        if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])  # its own, and those of children that have ended
    except OSError:  # the process has ended
        pass
print(ticks / os.sysconf("SC_CLK_TCK"))
