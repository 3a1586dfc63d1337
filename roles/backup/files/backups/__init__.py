"""The program `backup`: saves the databases and data folders of a host's apps, restores them, and proves it."""
