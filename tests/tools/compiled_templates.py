"""Compile each template once: hundreds of tests render the same ones, and compiling takes most of that time."""

from __future__ import annotations

from types import CodeType
from typing import Any

from jinja2 import Environment

# The attributes of an environment that change how it compiles a template.
SYNTAX = (
    *("block_start_string", "block_end_string", "variable_start_string", "variable_end_string"),
    *("comment_start_string", "comment_end_string", "line_statement_prefix", "line_comment_prefix"),
    *("trim_blocks", "lstrip_blocks", "newline_sequence", "keep_trailing_newline"),
)


def compile_once() -> None:
    """Have Jinja reuse the code of templates that were compiled before in this process."""
    compiled: dict[Any, CodeType] = {}
    original = Environment.compile

    def compile_template(self: Environment, source: Any, name: Any = None, filename: Any = None, **options: Any) -> Any:
        # Ansible reads a backslash in a string of a template in two ways, unless the template is included by its name.
        if options.get("raw") or not isinstance(source, str) or (name is None and "\\" in source):
            return original(self, source, name, filename, **options)
        key = (type(self), str(source), name, filename, *(getattr(self, syntax) for syntax in SYNTAX))
        if key not in compiled:
            compiled[key] = original(self, source, name, filename, **options)
        return compiled[key]

    Environment.compile = compile_template  # type: ignore[method-assign, assignment]
