"""The guestbook in a browser: a guest signs, uploads a picture and reads both."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import pytest
from data.guestbook import Guestbook
from testing import wait_for
from web_client import BLOCKED, browser

testinfra_hosts = ["ansible://web13"]


@pytest.mark.usefixtures("local")
def test_a_guest_signs_uploads_a_picture_and_sees_both(guestbook: Guestbook, picture: bytes, tmp_path: Path) -> None:
    site, message = f"https://{guestbook.web.domain}/", f"m{uuid4().hex[:8]}"
    file = tmp_path / "grey.png"
    file.write_bytes(picture)
    with browser(guestbook.web, tmp_path) as tab:
        tab.call("DOM.enable")
        tab.call("Page.navigate", url=site)
        tab.wait("Sign the guestbook")
        page = tab.call("DOM.getDocument")["root"]["nodeId"]
        field = tab.call("DOM.querySelector", nodeId=page, selector="input[name=picture]")["nodeId"]
        tab.call("DOM.setFileInputFiles", nodeId=field, files=[str(file)])
        # The Enter key sends the form from a field of one line.
        tab.submit({"textarea[name=message]": message, "input[name=name]": "Ada"})
        assert f"<p>{message}</p>" in tab.wait(f"<p>{message}</p>")

        def thumbnail() -> re.Match[str] | None:
            tab.call("Page.navigate", url=site)
            shown = tab.wait(f"<p>{message}</p>")
            return re.search(rf'<img src="(/media/\d+\.webp)"[^>]*>\s*<p>{message}</p>', shown)

        found = wait_for(thumbnail, 60, "the worker has made the thumbnail")
        image = f"""document.querySelector('img[src="{found[1]}"]')"""
        script = f"{image}.decode().then(() => {image}.naturalWidth)"
        width = tab.call("Runtime.evaluate", expression=script, awaitPromise=True)["result"]
        assert width.get("value", 0) > 0, width
        entries = [added["entry"]["text"] for added in tab.of("Log.entryAdded")]
        assert [text for text in entries if BLOCKED.search(text)] == []
