# Test machines for script/bench-backup, script/bench-metrics and script/bench-status, which source this file in the folder of
# the project. $folder holds the login data of each machine in NAME.json, the inventory in hosts.yml, and the output of the
# last playbook in the file log.
# shellcheck shell=bash
shopt -s inherit_errexit
export PATH="$PWD/.venv/bin:$PATH" ANSIBLE_NOCOLOR=1
folder=$(mktemp -d)

remove_machines() {
    local file
    for file in "$folder"/*.json; do
        script/machine down "$(basename "$file" .json)" >/dev/null 2>&1 || true
    done
    rm -rf "$folder"
}
trap remove_machines EXIT

up() { # NAME [OPTION]: a fresh machine instead of one that may be left; --vm makes it a virtual machine
    script/machine down "$1" >/dev/null 2>&1 || true
    rm -f "$folder/$1.ssh"
    script/machine up "$1" "${2:---debian=13}" >"$folder/$1.json"
}

login() { # NAME FIELD: a value of its login data
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$folder/$1.json" "$2"
}

connection() { # NAME: the variables of the inventory with which Ansible logs in
    cat <<VARIABLES
      ansible_host: $(login "$1" address)
      ansible_user: root
      ansible_ssh_private_key_file: $(login "$1" private_key)
      ansible_ssh_common_args: -o UserKnownHostsFile=$(login "$1" known_hosts)
VARIABLES
}

# One connection for all commands: the firewall of a host limits new ones.
on_host() { # NAME COMMAND: runs a line of the shell as root; its standard input is that of this function
    ssh -o ControlMaster=auto -o "ControlPath=$folder/$1.ssh" -o ControlPersist=600 -o ServerAliveInterval=5 \
        -i "$(login "$1" private_key)" -o "UserKnownHostsFile=$(login "$1" known_hosts)" \
        "admin@$(login "$1" address)" "sudo bash -ec $(printf %q "$2")"
}

play() { # NAME [OPTION…]: runs a playbook; status.yml exits with 2 if it has found a problem
    local code=0
    ansible-playbook "playbooks/$1.yml" -i "$folder/hosts.yml" "${@:2}" >"$folder/log" 2>&1 || code=$?
    [ "$code" = 0 ] || [ "$1 $code" = "status 2" ] ||
        { tail -n 30 "$folder/log" >&2; echo "Error: $1.yml has failed, see above." >&2; return 1; }
}

took() { # COMMAND…: seconds, with one decimal
    local from
    from=$(date +%s.%N)
    "$@" >&2 || return 1
    awk -v a="$from" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
