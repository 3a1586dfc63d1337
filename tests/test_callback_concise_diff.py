"""What the callback concise shows of a difference, without a run."""

from __future__ import annotations

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
