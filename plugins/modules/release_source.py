#!/usr/bin/python
"""Pack an app's source on the control node. This file is the documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_source
short_description: Pack an app's source on the control node
description:
  - Packs the files of a folder, or of one version of a Git repository, for M(blueoctopus.site.release_build).
    The host is not contacted.
  - In a Git work tree, files that C(.gitignore) matches are not packed. C(.git), caches, and virtual environments of
    any name are never packed. Submodules that are checked out are packed.
  - Fails for a work tree that git can't read, for pointers of Git LFS, for submodules of a repository at a URL, and
    for a list of dependencies that can't be installed in a release, such as one with an editable install.
  - Calculates a digest of everything that a release runs with on this host. For this, it has some of the options of
    M(blueoctopus.site.release_build).
options:
  name:
    description: Name of the app.
    type: str
    required: true
  source:
    description: >-
      Folder of the app on the control node, or the URL of a Git repository, which is cloned there. A password in it
      never appears in errors, logs or lists of processes.
    type: str
    required: true
  version:
    description: Branch, tag or commit, only for a Git repository; its default branch when omitted.
    type: str
  subfolder:
    description: Folder of the app in O(source). Other files of the source are not part of the release.
    type: str
    default: .
  requirements:
    description: File in that folder that lists the dependencies. See M(blueoctopus.site.release_build).
    type: str
    default: requirements.txt
  extras:
    description: See M(blueoctopus.site.release_build).
    type: list
    elements: str
    default: []
  groups:
    description: See M(blueoctopus.site.release_build).
    type: list
    elements: str
    default: []
  python:
    description: See M(blueoctopus.site.release_build).
    type: str
    default: /usr/bin/python3
  environment:
    description: See M(blueoctopus.site.release_build).
    type: dict
    default: {}
  secrets:
    description: See M(blueoctopus.site.release_build).
    type: dict
    default: {}
  files:
    description: See M(blueoctopus.site.release_build).
    type: dict
    default: {}
  static:
    description: >-
      See M(blueoctopus.site.release_build). A folder that the source does not contain is an error, except for the
      folder C(static) at C(/static/).
    type: list
    elements: dict
    default: []
  basic_auth:
    description: See M(blueoctopus.site.release_build).
    type: dict
    default: {}
  shared_paths:
    description: See M(blueoctopus.site.release_build). Fails for a path that is a link in the source or lies in a file.
    type: list
    elements: str
    default: []
  about:
    description: See M(blueoctopus.site.release_build).
    type: dict
    default: {}
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Pack the source
  blueoctopus.site.release_source:
    name: blueoctopus
    source: "{{ playbook_dir }}/../app"
  register: app_source
"""

RETURN = r"""
package:
  description: >-
    The path of the C(archive) on the control node, its C(manifest), the C(commit) and C(version) of the source, the
    C(time), and the C(digest) of everything that the release runs with on this host.
  returned: success
  type: dict
"""
