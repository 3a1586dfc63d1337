"""Make the log of an app readable: the exception first, then its traceback without frames of libraries."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

LINES = 40  # of the log, and of a traceback
LENGTH = 400  # characters of a line
CAUSE = 200  # characters of an exception's message
FRAMES = 4  # of libraries in a row, within a traceback
MESSAGE = 10  # further lines of an exception's message

# Sequences that change colours, the title or the contents of a terminal; then all other control characters.
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")

HEADER = re.compile(r"Traceback \(most recent call last\):")
GROUP = re.compile(r"\s*\+ Exception Group Traceback \(most recent call last\):")
FRAME = re.compile(r'\s*(?:\| +)*File "(?P<path>.*)", line (?P<line>\d+)(?:, in .*)?')
MARGIN = re.compile(r" *[|+] ?(?P<text>.*)")
LINK = re.compile(r"During handling of the above exception|The above exception was the direct cause")
# The last line of a traceback, such as `sqlalchemy.exc.NoSuchTableError: page` or `KeyboardInterrupt`.
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?:<locals>[\w.]*)?(?::.*)?")
# The start of another entry of the log, which is no further line of an exception's message.
ENTRY = re.compile(r"\[|\d{4}-\d\d-\d\d|\d\d:\d\d|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b|\S+\.(?:service|socket): ")
SOURCE = re.compile(r".*/releases/[^/]+/source/")
LIBRARIES = re.compile(r".*/(?:site-packages|dist-packages)/|/usr/(?:local/)?lib/python3[^/]*/")
# What gunicorn logs about its own start and end, which explains nothing.
GUNICORN = re.compile(
    r"(?:\[.*?\] )?\[\d+\] \[\w+\] "
    r"(?:Starting gunicorn|Listening at|Using worker|Booting worker|Worker exiting|Shutting down|Handling signal|"
    r"Control socket listening|Exception in worker process|Worker \(pid:\d+\) exited with code|"
    r"Worker \(pid:\d+\) was sent SIGTERM|Reason: (?:Worker|App) failed to)"
)
# What it prints instead of a traceback when it does not find the app.
NOT_FOUND = re.compile(r"Failed to (?:find attribute|parse) .*")


@dataclass
class Traceback:
    """A traceback, or several that Python has linked, and the exception at its end."""

    lines: list[str] = field(default_factory=list)
    exception: str = ""
    place: str = ""
    message: list[str] = field(default_factory=list)  # its further lines, if they belong to it

    @property
    def cause(self) -> str:
        """The exception and its place in the app's source, in one line."""
        message = self.exception if len(self.exception) <= CAUSE else f"{self.exception[:CAUSE]}…"
        return f"{message} in {self.place}" if self.place else message


def clean(text: str) -> str:
    """Remove sequences and characters that a terminal would execute."""
    return CONTROLS.sub("", ESCAPES.sub("", text.replace("\r\n", "\n").replace("\t", "    ")))


def clean_lines(log: str) -> list[str]:
    """The lines of a log without control characters and empty lines; very long lines are cut."""
    # Split first: an unfinished sequence must not remove the following lines.
    # And cut first: a journal's line has up to 48 KiB.
    lines = [clean(line[: 10 * LENGTH]).rstrip() for line in re.split(r"\r?\n", log)]
    return [line if len(line) <= LENGTH else f"{line[:LENGTH]}…" for line in lines if line]


def short_path(path: str) -> str:
    """The path of a file relative to the release's source or to the folder of libraries."""
    return LIBRARIES.sub("", SOURCE.sub("", path))


def is_of_app(path: str) -> bool:
    """Whether a file is the app's own: in the release's source, or relative to it."""
    return not LIBRARIES.match(path) and (bool(SOURCE.match(path)) or not path.startswith(("/", "<")))


def without_libraries(frames: list[list[str]]) -> list[str]:
    """The lines of frames, from the app's first one on; of many frames of libraries in a row, the outer ones.

    Without a frame of the app, the last frame remains: it is where the exception was raised.
    """
    paths = [match["path"] for frame in frames if (match := FRAME.fullmatch(frame[0]))]
    frames = [frame for frame, path in zip(frames, paths, strict=True) if not path.startswith("<frozen ")]
    own = [is_of_app(path) for path in paths if not path.startswith("<frozen ")]
    first = own.index(True) if True in own else max(0, len(frames) - 1)
    lines: list[str] = []
    index = first
    while index < len(frames):
        end = index
        while end < len(frames) and not own[end]:
            end += 1
        if end - index > FRAMES:
            hidden = end - index - 2
            lines += [*frames[index], f"  … {hidden} frames of libraries …", *frames[end - 1]]
            index = end
        else:
            lines += frames[index]
            index += 1
    return lines


def shorten(lines: list[str]) -> list[str]:
    """Lines without the middle, if there are too many."""
    if len(lines) <= LINES:
        return lines
    half = LINES // 2
    return [*lines[:half], f"  … {len(lines) - 2 * half} more lines …", *lines[-half:]]


def read_traceback(lines: list[str], at: int) -> tuple[Traceback, int]:
    """Read a traceback, and those that Python has linked to it.

    Args:
        lines: the log.
        at: index of the traceback's first line.

    Returns:
        The traceback, and the index of the line after it.
    """
    found = Traceback()
    while True:
        at = (read_group if GROUP.fullmatch(lines[at]) else read_single)(lines, at, found)
        linked = at + 1 < len(lines) and LINK.match(lines[at])
        if not linked or not is_start(lines[at + 1]):
            found.lines = shorten(found.lines)
            return found, at
        found.lines += [*found.message, lines[at]]
        at += 1


def is_start(line: str) -> bool:
    """Whether a line is the first one of a traceback."""
    return bool(HEADER.fullmatch(line) or GROUP.fullmatch(line))


def read_single(lines: list[str], at: int, found: Traceback) -> int:
    """Add one traceback to those that were found; return the index of the line after it."""
    frames: list[list[str]] = []
    found.exception, found.place, found.message = "", "", []
    found.lines.append(lines[at])
    at += 1
    while at < len(lines) and lines[at].startswith("  ") and not is_start(lines[at]):
        if match := FRAME.fullmatch(lines[at]):
            found.place = place_of(match) or found.place
            frames.append([lines[at]])
        elif frames:
            frames[-1].append(lines[at])
        at += 1
    found.lines += map(relative, without_libraries(frames))
    if at < len(lines) and EXCEPTION.fullmatch(lines[at]):
        found.exception = lines[at]
        found.lines.append(lines[at])
        at += 1
        while at < len(lines) and len(found.message) < MESSAGE:
            if ENTRY.match(lines[at]) or LINK.match(lines[at]) or is_start(lines[at]):
                break
            # gunicorn prints the message once more.
            if found.message or not repeats(lines[at], found.exception):
                found.message.append(lines[at])
            at += 1
    return at


def repeats(line: str, exception: str) -> bool:
    """Whether a line is the message of an exception, or that of a SyntaxError with its place."""
    message = exception.partition(": ")[2]
    return line == message or (line.startswith(f"{message} (") and line.endswith(")"))


def read_group(lines: list[str], at: int, found: Traceback) -> int:
    """Add the traceback of an exception group to those that were found; return the index of the line after it."""
    found.exception, found.place, found.message = "", "", []
    while at < len(lines) and MARGIN.match(lines[at]):
        if not found.exception and (match := FRAME.fullmatch(lines[at])):
            found.place = place_of(match) or found.place
        elif not found.exception and (match := MARGIN.fullmatch(lines[at])) and EXCEPTION.fullmatch(match["text"]):
            found.exception = match["text"]
        found.lines.append(relative(lines[at]))
        at += 1
    return at


def place_of(frame: re.Match[str]) -> str:
    """The file and line of a frame in the app's source; empty for a frame of a library."""
    return f"{short_path(frame['path'])}, line {frame['line']}" if is_of_app(frame["path"]) else ""


def relative(line: str) -> str:
    """A line of a traceback with a short path."""
    match = FRAME.fullmatch(line)
    return line.replace(match["path"], short_path(match["path"]), 1) if match else line


def parse(log: str) -> tuple[list[Traceback], list[str]]:
    """The different tracebacks of a log, the latest last, and its other lines.

    Tracebacks of gunicorn's master are left out: it only reports that a worker has failed.
    """
    lines, at = clean_lines(log), 0
    found: dict[tuple[str, ...], Traceback] = {}
    others: list[str] = []
    while at < len(lines):
        if is_start(lines[at]):
            traceback, at = read_traceback(lines, at)
            if not traceback.exception.startswith("gunicorn.errors.HaltServer"):
                repeated = found.pop(key := tuple(traceback.lines), None)
                if repeated and repeated.message != traceback.message:
                    others += repeated.message
                found[key] = traceback
        else:
            if not GUNICORN.match(lines[at]):
                others.append(lines[at])
            at += 1
    return list(found.values()), others if found or others else lines


def find_cause(log: str) -> str:
    """The last exception in a log with its place in the app's source, in one line; empty if there is none."""
    tracebacks, others = parse(log)
    causes = [line for line in others if NOT_FOUND.fullmatch(line)]
    causes += [traceback.cause for traceback in tracebacks if traceback.exception]
    return causes[-1] if causes else ""


def excerpt(log: str) -> str:
    """The end of a log, indented: the last traceback, then the earlier ones, then the last other lines."""
    tracebacks, others = parse(log)
    shown: list[str] = []
    for traceback in reversed(tracebacks):
        lines = [*traceback.lines, *traceback.message]
        if not shown:
            shown = lines
        elif len(shown) + len(lines) <= LINES:
            shown += ["Before that:", *lines]
    last = [line for n, line in enumerate(others) if n == 0 or line != others[n - 1]][-max(10, LINES - len(shown)) :]
    if shown and last:
        shown.append("Other lines:")
    return "\n".join(f"  {line}" for line in [*shown, *last]) or "  (the log is empty)"


def log_command(name: str, since: float | None = None) -> str:
    """The command that shows the log of an app on its host.

    Args:
        name: the app.
        since: start of the log, in seconds since 1970; the last hour when omitted.
    """
    start = "1 hour ago" if since is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(since))
    return f"sudo journalctl -u '{name}@*' -u '{name}.*' --since '{start}'"


def explain(name: str, problem: str, log: str, since: float, advice: str = "") -> str:
    """The error of a release that has failed: the cause, what happened, the log, the command for the full log.

    Args:
        name: the app.
        problem: what happened, as a sentence that begins in lower case.
        log: the log of the release.
        since: start of the log, in seconds since 1970.
        advice: a sentence that says what to do, if that is known.
    """
    cause = find_cause(log)
    first = [f"{name}: {cause}", problem[:1].upper() + problem[1:]] if cause else [f"{name}: {problem}"]
    parts = [*first, *([advice] if advice else []), "The end of its log:", excerpt(log)]
    return "\n".join([*parts, f"The whole log, on the host: {log_command(name, since)}"])
