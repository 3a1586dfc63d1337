"""The fixtures of these tests."""

from deploying import at_task, deploy, fleet, load, shop

__all__ = ["at_task", "deploy", "fleet", "load", "shop"]
