"""Choose the release of a deploy or a rollback, the same for every host."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.blueoctopus.site.plugins.plugin_utils.releases import (
    batches,
    former_release,
    release_id,
    release_result,
    rollback_target,
)


class ActionModule(ActionBase):
    """Choose from the states of all hosts; add the choice to those for other apps."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            {
                "app": {"type": "str", "required": True},
                "states": {"type": "dict", "required": True},
                "packages": {"type": "list", "elements": "dict"},
                "rebuild": {"type": "bool", "default": False},
                "release": {"type": "str", "default": ""},
                "batch": {"type": "str", "default": "100%"},
                "canary": {"type": "int", "default": 0},
                "apps": {"type": "dict", "required": True},
            }
        )
        states = args["states"]
        if args["packages"] is None:
            choice = rollback_target(states, args["release"])
            former = former_release(states.values(), "")
        else:
            choice = {"release": release_id(states.values(), args["packages"], args["rebuild"]), "problem": ""}
            former = former_release(states.values(), choice["release"])
        release = choice["release"]
        chosen = {**choice, "former": former, **release_result(states, release)}
        chosen["batches"] = batches(states, release, args["batch"], args["app"], args["canary"])
        return result | {"changed": False, "apps": args["apps"] | {args["app"]: chosen}}
