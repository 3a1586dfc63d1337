#!/usr/bin/python
"""Pack an app's source on the control node. This file is its documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_source
short_description: Pack an app's source on the control node
description:
  - Packs the files of a folder, or of one version of a Git repository, for M(blueoctopus.site.release_build).
    Nothing is done on the host.
  - In a Git work tree, what C(.gitignore) names stays out; C(.git), caches and virtual environments always do.
    Submodules that are checked out belong to it.
  - Refuses a work tree that git can't read, pointers of Git LFS, and submodules of a repository that is named by its
    URL.
  - Works out a digest of everything that a release runs with on this host. The arguments that
    M(blueoctopus.site.release_build) has too are for that.
options:
  name:
    description: Name of the app.
    type: str
    required: true
  source:
    description: >-
      Folder on the control node that holds the app, or the URL of a Git repository, which is cloned there. A password
      in it shows in no error, log or list of processes.
    type: str
    required: true
  version:
    description: Branch, tag or commit; for a Git repository only. Its default branch when left out.
    type: str
  requirements:
    description: File in O(source) that lists the dependencies.
    type: str
    default: requirements.txt
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
    description: See M(blueoctopus.site.release_build).
    type: dict
    default: {}
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
    The C(archive) on the control node, its C(manifest), the C(commit) and C(version) it was made from, the C(time), and
    the C(digest) of everything that the release runs with on this host.
  returned: success
  type: dict
"""
