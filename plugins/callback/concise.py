"""Print what changed, what failed and what takes long; leave out everything else."""

from __future__ import annotations

DOCUMENTATION = """
name: concise
type: stdout
short_description: show only what changed, what failed and what takes long
description:
  - One line for each changed task on each host, with the differences if they are requested. Errors are complete, and
    stand once. A task that takes longer than three seconds is announced.
  - Tasks that change nothing or are skipped, included files and the validation of arguments are left out.
  - The name of a task in a role or a file that a loop includes is followed by the item, such as the name of an app.
  - Of a new file, C(--diff) shows the path and the size; of a changed one, its name and the lines. Long differences are
    cut.
  - With C(-v), the output is that of Ansible's own callback C(default), without any of this.
  - What a playbook stores for the whole run with M(ansible.builtin.set_stats) is printed as text, at the end.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - Set as C(stdout_callback) in C(ansible.cfg).
"""

import itertools
import os
import re
import threading
from collections.abc import Mapping
from typing import Any

from ansible import constants as C
from ansible.executor import task_result
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback.default import CallbackModule as DefaultCallback
from ansible.utils.color import stringc
from ansible_collections.blueoctopus.site.plugins.module_utils.app_log import clean

ANNOUNCE_AFTER = 3.0  # seconds
ANNOUNCE_AGAIN = 60.0  # seconds
DIFF_LINES = 40
NEW_LINES = 5  # a new text with more lines is shown by its size
OUTPUT_LINES = 12  # of a program that shows what it would do, such as apt
DEBUG_ACTIONS = ("debug", "ansible.builtin.debug", "ansible.legacy.debug")
# Actions whose message is the whole error: where they stand in a file explains nothing.
REPORTS = re.compile(r"(?:ansible\.builtin\.)?(?:fail|assert)|blueoctopus\.site\.\w+")
# What apt suggests, and the packages that it names again in its list of new packages.
APT_DETAILS = re.compile(r"^(?:Suggested|Recommended|The following additional) packages.*:\n(?:  .*\n)*", re.MULTILINE)
HUNK = re.compile(r"^(?:\x1b\[[\d;]*m)?@@ -")  # a line of a difference that has only line numbers
OWN_ERROR = re.compile(r"Task failed: (?!Action failed: )")
# Keys of a failed result that explain nothing.
NEEDLESS = {
    *("msg", "changed", "failed", "unreachable", "exception", "invocation", "diff", "warnings", "deprecations"),
    *("stdout_lines", "stderr_lines", "start", "end", "delta", "ansible_loop_var", "item", "attempts", "results"),
    *("skip_reason", "evaluated_to", "assertion", "ansible_facts", "checksum"),
    *("failed_when_result", "failed_when_suppressed_exception", "changed_when_suppressed_exception"),
}


def indent(text: str) -> str:
    """A text with two spaces before each line."""
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def size_of(text: str) -> str:
    """The numbers of lines and bytes of a text."""
    numbers = {"line": len(text.splitlines()), "byte": len(text.encode(errors="replace"))}
    return ", ".join(f"{number} {unit}{'s' * (number != 1)}" for unit, number in numbers.items())


class CallbackModule(DefaultCallback):
    """Ansible's own output, reduced; with -v, Ansible's own output."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "blueoctopus.site.concise"

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()  # the announcement of a slow task comes from a thread
        self._timer: threading.Timer | None = None
        self._task = ("", "")  # unique ID and name of the current task
        self._pending_play: Any = None
        self._shown_plays: set[str] = set()
        self._differences: dict[tuple[str, str], str] = {}
        self._errors: dict[tuple[str, str], str] = {}

    @property
    def _is_full(self) -> bool:
        """Whether the output is Ansible's own. Results of an old Ansible, which check_inventory refuses, differ."""
        return bool(self._display.verbosity > 0) or not hasattr(task_result, "CallbackTaskResult")

    # --- plays and tasks -----------------------------------------------------------------------------------------

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self._is_full:
            return super().v2_playbook_on_play_start(play)
        # A play whose list of hosts is empty belongs to a feature that no host uses.
        self._play, self._pending_play = play, play if play.hosts else None
        self._stop_timer()
        # A play that is imported again is announced only if it has something to show.
        if play.get_name() not in self._shown_plays:
            self._show_play()
        return None

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if self._is_full:
            return super().v2_playbook_on_task_start(task, is_conditional)
        return self._start_task(task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        if self._is_full:
            return super().v2_playbook_on_handler_task_start(task)
        return self._start_task(task)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if self._is_full:
            super().v2_playbook_on_include(included_file)

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        if self._is_full:
            super().v2_playbook_on_no_hosts_remaining()

    def v2_playbook_on_no_hosts_matched(self) -> None:
        if self._is_full or self._play.hosts:
            super().v2_playbook_on_no_hosts_matched()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._stop_timer()
        self.set_option("show_custom_stats", False)  # shown here, as text
        super().v2_playbook_on_stats(stats)
        for text in stats.custom.get("_run", {}).values():
            self._display.display(clean(str(text)))

    def _start_task(self, task: Any) -> None:
        self._stop_timer()
        # Now, because Ansible has resolved variables in the name only now.
        name = re.sub(r"^(?:\w+\.\w+\.)?(\w+ : )", r"\1", task.get_name().strip())
        # A role or a file that a loop includes: each task belongs to an item, such as the app that is deployed.
        variables = task.get_vars()
        item = variables.get(variables.get("ansible_loop_var", ""))
        self._task = (task._uuid, f"{name} [{clean(item)}]" if isinstance(item, str) else name)
        self._start_timer(ANNOUNCE_AFTER, 0)

    def _name_of(self, task: Any) -> str:
        return self._task[1] if task._uuid == self._task[0] else str(task.get_name().strip())

    def _start_timer(self, delay: float, passed: float) -> None:
        self._timer = threading.Timer(delay, self._announce, [self._task, delay, passed + delay])
        self._timer.daemon = True
        self._timer.start()

    def _stop_timer(self) -> None:
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._timer = None

    def _announce(self, task: tuple[str, str], delay: float, passed: float) -> None:
        """Print the name of the current task, and again after a while."""
        with self._lock:
            if self._timer is None or task != self._task:
                return
            since = f" ({passed:.0f} s)" if delay == ANNOUNCE_AGAIN else ""
            self._show(f"running: {task[1]}{since}", C.COLOR_DEBUG)
            self._start_timer(ANNOUNCE_AGAIN, passed)

    def _show_play(self) -> None:
        if play := self._pending_play:
            self._pending_play = None
            self._shown_plays.add(play.get_name())
            super().v2_playbook_on_play_start(play)

    def _show(self, text: str, color: str | None = None, is_error: bool = False) -> None:
        with self._lock:
            self._show_play()
            self._display.display(text, color=color, stderr=is_error and self.get_option("display_failed_stderr"))

    # --- results -------------------------------------------------------------------------------------------------

    def v2_runner_on_ok(self, result: Any) -> None:
        if self._is_full:
            return super().v2_runner_on_ok(result)
        self._show_warnings(result)
        difference = self._differences.pop((result.host.get_name(), result.task._uuid), "")
        if isinstance(result.task, TaskInclude):
            return None
        is_loop = bool(result.task.loop and "results" in result.result)
        if result.task.action in DEBUG_ACTIONS:
            if not is_loop and self._run_is_verbose(result):
                self._show_message(result)
        elif result.result.get("changed"):
            items = [item for item in result.result["results"] if item.get("changed")] if is_loop else []
            labels = ", ".join(str(self._get_item_label(item)) for item in items)
            text = f"changed: [{self.host_label(result)}] {self._name_of(result.task)}{labels and f': {labels}'}"
            self._show(clean(text), C.COLOR_CHANGED)
            if difference:
                self._show(difference)
        return None

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self._is_full:
            return super().v2_runner_item_on_ok(result)
        self._show_warnings(result)
        if result.task.action in DEBUG_ACTIONS and self._run_is_verbose(result):
            self._show_message(result)
        return None

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if self._is_full:
            return super().v2_runner_on_failed(result, ignore_errors)
        self._show_warnings(result)
        # The errors of items have been shown.
        if not (result.task.loop and "results" in result.result):
            self._show_error(f"fatal: [{self.host_label(result)}]: FAILED!", result)
        if ignore_errors:
            self._show("...ignoring", C.COLOR_SKIP)
        return None

    def v2_runner_item_on_failed(self, result: Any) -> None:
        if self._is_full:
            return super().v2_runner_item_on_failed(result)
        self._show_warnings(result)
        item = self._get_item_label(result.result)
        return self._show_error(f"failed: [{self.host_label(result)}] (item={item})", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        if self._is_full:
            return super().v2_runner_on_unreachable(result)
        self._show_warnings(result)
        if result.task.ignore_unreachable:
            # A later task reports it, or it does not matter.
            reason = (self._describe(result.result).splitlines() or [""])[0]
            text = f"ignored: [{self.host_label(result)}] {self._name_of(result.task)}: {reason}"
            return self._show(text, C.COLOR_SKIP)
        label = f"fatal: [{self.host_label(result)}]: UNREACHABLE!"
        return self._show_error(label, result, C.COLOR_UNREACHABLE)

    def v2_runner_on_skipped(self, result: Any) -> None:
        if self._is_full:
            return super().v2_runner_on_skipped(result)
        return self._show_warnings(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        if self._is_full:
            return super().v2_runner_item_on_skipped(result)
        return self._show_warnings(result)

    def _show_warnings(self, result: Any) -> None:
        # Without the exception: it contains the message of the error, which would then stand twice.
        self._handle_warnings(result.result)

    def _show_message(self, result: Any) -> None:
        """Show the message of the module debug as text."""
        label = "" if result.task.run_once else f"[{self.host_label(result)}]\n"
        self._show(f"\n{label}{self._describe(result.result)}")

    def _show_error(self, label: str, result: Any, color: str = C.COLOR_ERROR) -> None:
        """Show an error; on further hosts only that it is the same."""
        name, host = self._name_of(result.task), result.host.get_name()
        text = self._describe(result.result)
        # Ansible's own errors, such as an undefined variable or a module that crashes, need their place too.
        is_whole = REPORTS.fullmatch(result.task.action) and not OWN_ERROR.match(str(result.result.get("msg")))
        if not is_whole and color == C.COLOR_ERROR and (path := result.task.get_path()):
            path = os.path.realpath(path)  # the collection is a folder of links
            path = os.path.relpath(path) if path.startswith(f"{os.getcwd()}/") else path
            text += f"\n({path}; -vvv shows more)"
        first = self._errors.setdefault((result.task._uuid, text), host)
        text = text if first == host else f"The same as on {first}."
        self._show(f"{label} => {name}\n{indent(text)}", color, is_error=True)

    def _describe(self, result: Mapping[str, Any]) -> str:
        """The message of a result as text, then its other keys."""
        message = result.get("msg", "")
        if isinstance(message, list) and all(isinstance(line, str) for line in message):
            message = "\n".join(message)
        text = clean(message) if isinstance(message, str) else ""
        text = re.sub(r"^Task failed: (?:Action failed: )?", "", text)
        rest = {
            key: value
            for key, value in result.items()
            if not key.startswith("_") and key not in NEEDLESS and value not in ("", None, [], {})
        }
        if message and not text:
            rest["msg"] = message
        dumped = self._dump_results(rest).strip("\n") if rest else ""
        lines = dumped.splitlines()
        margin = min((len(line) - len(line.lstrip(" ")) for line in lines if line.strip()), default=0)
        return "\n".join([*text.splitlines(), *(line[margin:] for line in lines)])

    # --- differences ---------------------------------------------------------------------------------------------

    def v2_on_file_diff(self, result: Any) -> None:
        if self._is_full:
            return super().v2_on_file_diff(result)
        results = result.result["results"] if result.task.loop and "results" in result.result else [result.result]
        arguments = result.task.args
        shown = [self._short_diffs(one, arguments) for one in results if one.get("diff") and one.get("changed")]
        # Shown after the line of the task. Each item of a loop comes by itself.
        key = (result.host.get_name(), result.task._uuid)
        self._differences[key] = "\n".join(filter(None, [self._differences.get(key, ""), *shown]))
        return None

    def _short_diffs(self, result: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
        """The differences of a result of a task with these arguments."""
        entries = result["diff"] if isinstance(result["diff"], list) else [result["diff"]]
        places = (result, result.get("invocation", {}).get("module_args", {}), arguments)
        path = next((place[key] for place in places for key in ("dest", "path") if place.get(key)), None)
        shown = []
        for folder, group in itertools.groupby(entries, key=lambda entry: self._folder_of_new(entry, path)):
            files = list(group)
            if folder and len(files) > 1:
                sizes = (f"{os.path.basename(self._path_of(one, path))} ({size_of(one['after'])})" for one in files)
                shown.append(stringc(f"  new in {folder}: {', '.join(sizes)}", C.COLOR_DIFF_ADD))
            else:
                shown += [self._short_diff(entry, path) for entry in files]
        return "\n".join(filter(None, shown))

    @staticmethod
    def _path_of(diff: Mapping[str, Any], path: str | None) -> str:
        """The file of an entry, or what else the entry names; `path` is that of the task's arguments."""
        return clean(str(diff.get("before_header") or path or diff.get("after_header") or ""))

    def _folder_of_new(self, diff: Mapping[str, Any], path: str | None) -> str:
        """The folder of a new file; "" for other entries."""
        after, name = diff.get("after"), self._path_of(diff, path)
        is_new = isinstance(after, str) and after and not diff.get("before")
        return os.path.dirname(name) if is_new else ""

    def _short_diff(self, diff: dict[str, Any], path: str | None) -> str:
        """One entry of a diff: a line for a new or removed file, or for attributes; else the changed lines.

        Args:
            diff: the entry.
            path: the file, when the entry does not name it: that of a new file has only the name of its source.
        """
        before, after = diff.get("before"), diff.get("after")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            return self._attributes(before, after)
        name = self._path_of(diff, path)
        is_file = name.startswith("/")
        if isinstance(after, str) and after and not before and (is_file or len(after.splitlines()) > NEW_LINES):
            return stringc(f"  new: {name or 'text'}, {size_of(after)}", C.COLOR_DIFF_ADD)
        if isinstance(before, str) and before and not after and is_file:
            return stringc(f"  removed: {name}, {size_of(before)}", C.COLOR_DIFF_REMOVE)
        texts = {key: clean(value) for key, value in diff.items() if isinstance(value, str)}
        if "prepared" in texts:
            texts["prepared"] = APT_DETAILS.sub("", texts["prepared"])
        lines = str(self._get_diff(diff | texts)).rstrip().splitlines()
        if "before" in diff and lines:
            parts = [(HUNK.search(line), line) for line in lines[3:]]  # after the two names and the first line number
            lines = [*([f"  {name}:"] if name else []), *("  …" if is_number else line for is_number, line in parts)]
        # The last line of a program's output is its summary.
        limit, tail = (OUTPUT_LINES, lines[-1:]) if "prepared" in diff else (DIFF_LINES, [])
        if len(lines) > limit + 1:
            rest = len(lines) - limit - len(tail)
            lines = [*lines[:limit], f"  … {rest} more lines, -v shows all", *tail]
        return "\n".join(lines)

    @staticmethod
    def _attributes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
        """The changed attributes of a file, in one line."""
        changes = [
            f"{key} {before.get(key, 'none')} → {value}" for key, value in after.items() if value != before.get(key)
        ]
        path = after.get("path") or before.get("path") or ""
        return clean(f"  {path}: {', '.join(changes)}") if changes else ""
