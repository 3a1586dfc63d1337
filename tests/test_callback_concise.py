"""What a person reads in the terminal: the callback concise, in real runs against this computer."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from plays import run_play

pytestmark = pytest.mark.slow
Play = Callable[..., str]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return functools.partial(run_play, tmp_path)


def lines(output: str) -> list[str]:
    """The lines between the name of the play and the recap, without announcements, which depend on the computer."""
    return [line for line in output.partition("\nPLAY RECAP")[0].splitlines()[2:] if not line.startswith("running: ")]


def test_a_changed_task_is_one_line_and_everything_else_is_left_out(play: Play, tmp_path: Path) -> None:
    (tmp_path / "more.yml").write_text("- name: Change more\n  ansible.builtin.command: 'true'\n  notify: Reload\n")
    output = play(
        """\
        - hosts: all
          name: Provision
          gather_facts: false
          handlers:
            - name: Reload
              ansible.builtin.command: "true"
          tasks:
            - name: Change nothing
              ansible.builtin.command: "true"
              changed_when: false
            - name: Skip this
              ansible.builtin.command: "false"
              when: false
            - name: Validate arguments
              ansible.builtin.validate_argument_spec:
                argument_spec: {}
            - name: Change {{ inventory_hostname }}
              ansible.builtin.copy:
                content: no difference without --diff
                dest: "{{ playbook_dir }}/file"
            - name: Change some
              ansible.builtin.command: "{{ item }}"
              loop: ["true", "echo", "sync"]
              changed_when: item != "true"
            - name: Skip all
              ansible.builtin.command: "{{ item }}"
              loop: ["true"]
              when: false
            - name: Include
              ansible.builtin.include_tasks: more.yml
        """
    )
    assert lines(output) == [
        "changed: [web1] Change web1",
        "changed: [web1] Change some: echo, sync",
        "changed: [web1] Change more",
        "changed: [web1] Reload",
    ]
    assert output.startswith("\nPLAY [Provision] ***")
    assert "web1                       : ok=7    changed=4    unreachable=0    failed=0    skipped=2" in output


def test_tasks_that_a_loop_includes_name_its_item(play: Play, tmp_path: Path) -> None:
    (tmp_path / "inner.yml").write_text(
        "- name: Build\n  ansible.builtin.command: 'true'\n- name: Check\n  ansible.builtin.fail:\n    msg: broken\n"
        "  when: app_name == 'blog'\n"
    )
    output = play(
        """\
        - name: Deploy each app
          ansible.builtin.include_tasks: inner.yml
          loop: [shop, blog]
          loop_control:
            loop_var: app_name
        """
    )
    assert lines(output)[:2] == ["changed: [web1] Build [shop]", "changed: [web1] Build [blog]"]
    assert lines(output)[2:] == ["fatal: [web1]: FAILED! => Check [blog]", "  broken"]


def test_an_unchanged_run_is_the_name_of_each_play_and_the_recap(play: Play) -> None:
    check = "- hosts: all\n  name: Check\n  gather_facts: false\n  tasks: [{ansible.builtin.meta: noop}]\n"
    output = play(
        check + check.replace("Check", "Deploy") + check + check.replace("Check", "Nowhere").replace("all", "nowhere")
    )
    shown = [line.split(" *")[0] for line in output.splitlines() if line]
    assert [line for line in shown if line.startswith(("PLAY", "skipping"))] == [
        "PLAY [Check]",
        "PLAY [Deploy]",
        "PLAY [Nowhere]",
        "skipping: no hosts matched",
        "PLAY RECAP",
    ]


def test_a_play_for_an_empty_list_of_hosts_is_not_shown(play: Play) -> None:
    check = "- hosts: all\n  name: Check\n  gather_facts: false\n  tasks: [{ansible.builtin.meta: noop}]\n"
    output = play(check + check.replace("Check", "Unused").replace("all", '"{{ groups.unused | default([]) }}"'))
    assert "PLAY [Check]" in output
    assert "Unused" not in output
    assert "no hosts matched" not in output


ERRORS = """\
    - name: Rescue
      block:
        - name: Report
          ansible.builtin.fail:
            msg: |-
              shop: KeyError in main.py
                the next line
      rescue:
        - name: Recover
          ansible.builtin.command: "true"
    - name: Run a program
      ansible.builtin.command: sh -c 'echo out; echo err >&2; exit 3'
      failed_when: true
      ignore_errors: true
    - name: Loop
      ansible.builtin.command: "{{ item }}"
      loop: ["true", "false"]
      ignore_errors: true
    - name: Use a variable
      ansible.builtin.command: "{{ no_such_variable }}"
"""


def test_error_is_complete_and_printed_once(play: Play) -> None:
    # Newer versions of Ansible say it in a sentence.
    output = play(ERRORS).replace("The command exited with a non-zero return code.", "non-zero return code")
    assert lines(output) == [
        "fatal: [web1]: FAILED! => Report",
        "  shop: KeyError in main.py",
        "    the next line",
        "changed: [web1] Recover",
        "fatal: [web1]: FAILED! => Run a program",
        "  non-zero return code",
        "  cmd:",
        "  - sh",
        "  - -c",
        "  - echo out; echo err >&2; exit 3",
        "  rc: 3",
        "  stderr: err",
        "  stdout: out",
        "  (play.yml:15; -vvv shows more)",
        "...ignoring",
        "failed: [web1] (item=false) => Loop",
        "  non-zero return code",
        "  cmd:",
        "  - 'false'",
        "  rc: 1",
        "  (play.yml:19; -vvv shows more)",
        "...ignoring",
        "fatal: [web1]: FAILED! => Use a variable",
        "  Finalization of task args for 'ansible.builtin.command' failed: "
        "Error while resolving value for '_raw_params': 'no_such_variable' is undefined",
        "  (play.yml:23; -vvv shows more)",
    ]


def test_the_same_error_of_several_hosts_is_shown_once(play: Play) -> None:
    output = play(
        """\
        - name: Fail
          ansible.builtin.fail:
            msg: "{{ 'another' if inventory_hostname == 'web3' else 'the reason' }}"
        """,
        *("--forks", "1"),
        hosts="web1 web2 web3 web4",
    )
    first, second, third, fourth = (line for line in lines(output) if line.startswith("  "))
    assert [first, second, third, fourth] == [
        "  the reason",
        "  The same as on web1.",
        "  another",
        "  The same as on web1.",
    ]
    assert all(f"fatal: [web{n}]: FAILED! => Fail" in lines(output) for n in range(1, 5))


def test_an_unreachable_host_is_shown(play: Play) -> None:
    # The module raw sends no input to ssh, whose end could otherwise be reported instead of the reason.
    output = play(
        """\
        - name: Connect
          ansible.builtin.raw: "true"
          ignore_unreachable: true
        - name: Connect again
          ansible.builtin.raw: "true"
        - name: Do not run this
          ansible.builtin.command: "true"
        """,
        *("-e", "ansible_connection=ssh", "-e", "ansible_host=127.0.0.1", "-e", "ansible_port=9"),
    )
    ignored, fatal, reason, *_ = lines(output)
    assert ignored.startswith("ignored: [web1] Connect: ")
    assert "Connection refused" in ignored
    assert fatal == "fatal: [web1]: UNREACHABLE! => Connect again"
    assert "Connection refused" in reason
    assert "Do not run this" not in output


def test_what_is_not_logged_is_not_shown(play: Play) -> None:
    output = play(
        """\
        - name: Write a secret
          ansible.builtin.copy:
            content: "squid\\nink\\n"
            dest: "{{ playbook_dir }}/secret"
          no_log: true
        - name: Loop over secrets
          ansible.builtin.command: echo {{ item }}
          loop: [squid, ink]
          no_log: true
        - name: Show a secret
          ansible.builtin.debug:
            msg: squid
          no_log: true
        - name: Fail with a secret
          ansible.builtin.command: "false {{ item }}"
          loop: [squid, ink]
          no_log: true
          ignore_errors: true
        - name: Fail
          ansible.builtin.fail:
            msg: squid
          no_log: true
        """,
        "--diff",
    )
    assert "squid" not in output
    assert "ink" not in output
    assert "changed: [web1] Write a secret" in output
    assert "fatal: [web1]: FAILED! => Fail\n  censored: " in output


WRITE = """\
    - name: Write
      ansible.builtin.copy:
        content: "{{ content }}"
        dest: "{{ playbook_dir }}/file"
"""


def test_of_a_new_file_the_path_and_the_size_are_shown(play: Play, tmp_path: Path) -> None:
    (tmp_path / "site.conf.j2").write_text("{{ inventory_hostname }}\nsecond\n")
    output = play(
        """\
        - name: Write some files
          ansible.builtin.copy:
            content: "{{ item }}"
            dest: "{{ playbook_dir }}/{{ item }}"
          loop: [one, two]
        - name: Write templates
          ansible.builtin.template:
            src: site.conf.j2
            dest: "{{ playbook_dir }}/{{ item }}.conf"
          loop: [site, error]
        - name: Create a folder
          ansible.builtin.file:
            path: "{{ playbook_dir }}/folder"
            state: directory
        """,
        *("--check", "--diff"),
    )
    assert lines(output) == [
        "changed: [web1] Write some files: one, two",
        f"  new: {tmp_path}/one, 1 line, 3 bytes",
        f"  new: {tmp_path}/two, 1 line, 3 bytes",
        "changed: [web1] Write templates: site, error",
        f"  new: {tmp_path}/site.conf, 2 lines, 12 bytes",
        f"  new: {tmp_path}/error.conf, 2 lines, 12 bytes",
        "changed: [web1] Create a folder",
        f"  {tmp_path}/folder: state absent → directory",
    ]


MANY = "\n".join(f"line {n}" for n in range(100))


def test_of_a_changed_file_the_difference_is_shown_in_color_and_cut_when_it_is_long(play: Play, tmp_path: Path) -> None:
    for name in ("file", "long"):
        (tmp_path / name).write_text("same\nold\n")
    long = WRITE.replace("{{ content }}", "{{ long }}").replace("/file", "/long")
    content = {"content": "same\n\x1b[2Jnew\n", "long": MANY}
    output = play(WRITE + long, "--diff", "-e", json.dumps(content), color=True)
    shown = lines(re.sub(r"\x1b\[[0-9;]+m", "", output))
    assert shown[1:5] == [f"  {tmp_path}/file:", " same", "-old", "+new"]
    assert len(shown[6:]) == 42
    assert shown[-1] == "  … 65 more lines, -v shows all"
    assert "\x1b[0;33mchanged: [web1] Write\x1b[0m" in output
    assert "\x1b[0;31m-old\n\x1b[0m" in output or "\x1b[0;31m-old\x1b[0m" in output


def test_a_message_is_shown_as_text(play: Play) -> None:
    output = play(
        """\
        - name: Report
          ansible.builtin.debug:
            msg: "shop\\n  open  http://site.example/\\e[2J"
          run_once: true
        - name: Greet
          ansible.builtin.debug:
            msg: [hello, "{{ inventory_hostname }}"]
        - name: Show only with -vv
          ansible.builtin.debug:
            msg: hidden
            verbosity: 2
        - name: Show a variable
          ansible.builtin.debug:
            var: groups
          run_once: true
        """,
        *("--forks", "1"),
        hosts="web1 web2",
    )
    assert lines(output)[:10] == [
        *("", "shop", "  open  http://site.example/"),
        *("", "[web1]", "hello", "web1", "", "[web2]", "hello"),
    ]
    assert "\ngroups:\n" in output
    assert "hidden" not in output


def test_warnings_of_unchanged_tasks_and_the_place_of_a_crash_are_shown(play: Play, tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library/careful.py").write_text(
        "#!/usr/bin/python\nfrom ansible.module_utils.basic import AnsibleModule\n"
        "module = AnsibleModule({'crash': {'type': 'bool'}})\nmodule.warn('mind this')\n"
        "module.deprecate('will change', version='9', collection_name='a.b')\n"
        "{}['x'] if module.params['crash'] else module.exit_json()\n"
    )
    output = play("- name: Warn\n  careful:\n- name: Crash\n  careful:\n    crash: true\n")
    assert "[WARNING]: mind this" in output
    assert "[DEPRECATION WARNING]: will change" in output
    assert lines(output)[-3:] == [
        "fatal: [web1]: FAILED! => Crash",
        "  Module failed: 'x'",
        "  (play.yml:7; -vvv shows more)",
    ]


@pytest.mark.parametrize("options", [[], ["-v"]])
def test_results_of_the_run_are_the_last_text(play: Play, options: list[str]) -> None:
    output = play(
        """\
        - name: Store
          ansible.builtin.set_stats:
            data:
              summary: "shop\\n  open  http://site.example/\\e[2J"
        - name: Fail later
          ansible.builtin.fail:
            msg: reason
        """,
        *options,
    )
    assert output.endswith("ignored=0   \n\nshop\n  open  http://site.example/\n")


def test_with_v_everything_is_shown(play: Play, tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    result = {"changed": True, "diff": {"before": "old\n", "after": MANY}}
    (tmp_path / "library/write.sh").write_text(f"#!/bin/sh\n# WANT_JSON\ncat <<'END'\n{json.dumps(result)}\nEND\n")
    tasks = """\
        - name: Write
          write:
        - name: Change nothing
          ansible.builtin.command: echo hello
          changed_when: false
        - name: Fail
          ansible.builtin.fail:
            msg: reason
        """
    output = play(tasks, "-v", "--diff")
    assert "+line 99" in output
    assert "TASK [Change nothing] ***" in output
    assert "stdout: hello" in output
    assert "[ERROR]: Task failed: Action failed: reason" in output
    assert "fatal: [web1]: FAILED! => \n" in output


def test_a_task_that_takes_long_is_announced(play: Play) -> None:
    output = play("- name: Take long\n  ansible.builtin.command: sleep 5\n  changed_when: false\n")
    assert output.count("running: Take long\n") == 1
