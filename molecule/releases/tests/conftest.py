"""The fixtures of these tests."""

from deploying import at_task, deploy, load, shop

__all__ = ["at_task", "deploy", "load", "shop"]
