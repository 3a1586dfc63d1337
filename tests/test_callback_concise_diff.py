"""What the callback concise shows of a difference, without a run."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.callback.concise import CallbackModule


def test_of_the_output_of_apt_the_new_packages_and_the_summary_are_shown() -> None:
    packages = "".join(f"  package{n}\n" for n in range(40))
    apt = f"""The following additional packages will be installed:
  libone
Suggested packages:
  two three
The following NEW packages will be installed:
  libone
{packages}0 upgraded, 41 newly installed, 0 to remove and 3 not upgraded.
"""
    shown = CallbackModule()._short_diff({"prepared": apt}, None).splitlines()
    assert shown[:2] == ["The following NEW packages will be installed:", "  libone"]
    assert shown[-2:] == [
        "  … 30 more lines, -v shows all",
        "0 upgraded, 41 newly installed, 0 to remove and 3 not upgraded.",
    ]


def test_a_removed_file_is_one_line_and_other_new_texts_are_shown_if_they_are_short() -> None:
    callback = CallbackModule()
    assert "removed: /etc/old, 2 lines, 4 bytes" in callback._short_diff(
        {"before_header": "/etc/old", "before": "a\nb\n", "after": ""}, None
    )
    rules = {"before_header": "rules", "after_header": "rules", "before": ""}
    assert "+allow 22/tcp" in callback._short_diff(rules | {"after": "allow 22/tcp\n"}, None)
    assert "new: rules, 99 lines, 198 bytes" in callback._short_diff(rules | {"after": "a\n" * 99}, None)


@pytest.mark.parametrize("root", ["/etc/", ""])  # files of a release have relative paths
def test_new_files_of_one_folder_are_one_line(root: str) -> None:
    files = [
        {"before_header": f"{root}{name}", "before": "", "after": text}
        for name, text in (("one/a", "1\n"), ("one/b", "1\n2\n"), ("two/c", "1\n" * 99))
    ]
    shown = CallbackModule()._short_diffs({"diff": files}, {}).splitlines()
    assert len(shown) == 2
    assert f"new in {root}one: a (1 line, 2 bytes), b (2 lines, 4 bytes)" in shown[0]
    assert f"new: {root}two/c, 99 lines, 198 bytes" in shown[1]


def test_of_a_changed_file_the_name_and_the_lines_are_shown() -> None:
    lines = [f"{number}\n" for number in range(20)]
    changed = ["one\n" if number in (3, 15) else line for number, line in enumerate(lines)]
    diff = {"before_header": "/etc/a", "after_header": "/tmp/b", "before": "".join(lines), "after": "".join(changed)}
    shown = CallbackModule()._short_diff(diff, None).splitlines()
    assert shown[0] == "  /etc/a:"
    assert [line for line in shown[1:] if not line.startswith(" ")] == ["-3", "+one", "-15", "+one"]
    assert shown.count("  …") == 1
