"""The jobs of the worker, and the worker itself: python jobs.py"""

from __future__ import annotations

import os

from flask import current_app, has_app_context
from models import Entry, db
from pictures import InvalidPicture, write_thumbnail
from redis import Redis
from rq import Queue, Worker


def queue() -> Queue:
    """The queue of the worker."""
    return Queue(connection=Redis.from_url(os.environ["REDIS_URL"]))


def queue_thumbnail(number: int) -> None:
    """Let the worker make the thumbnail of an entry. Without REDIS_URL, as in development, it is made at once.

    Args:
        number: ID of the entry.

    Raises:
        RedisError: when the queue can't be reached.
    """
    if "REDIS_URL" in os.environ:
        queue().enqueue(make_thumbnail, number)
    else:
        make_thumbnail(number)


def make_thumbnail(number: int) -> None:
    """Make the thumbnail of the picture of an entry.

    Args:
        number: ID of the entry.
    """
    if not has_app_context():  # in the worker
        from guestbook import create_app

        with create_app().app_context():
            return make_thumbnail(number)
    entry, data = db.session.get(Entry, number), current_app.config["DATA"]
    if entry is None:
        return None
    try:
        write_thumbnail(data / "pictures" / str(number), data / "media" / f"{number}.webp")
    except InvalidPicture as error:
        current_app.logger.warning("Entry %s has no thumbnail: %s", number, error)
        return None
    entry.thumbnail = f"{number}.webp"
    db.session.commit()
    current_app.logger.info("The thumbnail of entry %s was made", number)
    return None


if __name__ == "__main__":
    # When systemd stops it, it finishes the current job first.
    Worker([queue()]).work()
