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
  - Calculates a digest of everything that a release runs with on this host.
options:
  app:
    description:
      - The app, as an entry of C(apps) with the defaults of omitted keys. These of its keys are used.
      - C(name) and C(source), the folder of the app on the control node or the URL of a Git repository, which is cloned
        there. A password in the URL never appears in errors, logs or lists of processes.
      - C(version), a branch, tag or commit of a Git repository; C(subfolder) of the source, outside of which no file is
        part of the release.
      - The options of M(blueoctopus.site.release_build) with the same names. A C(static) folder that the source does
        not contain is an error, except for the folder C(static) at C(/static/). So is a path in C(shared_paths) that is
        a link in the source or lies in a file.
    type: dict
    required: true
  files:
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
    app:
      name: blueoctopus
      source: "{{ playbook_dir }}/../app"
  register: app_source
"""

RETURN = r"""
package:
  description: >-
    The path of the C(archive) on the control node, its C(manifest), the C(commit) and C(version) of the source, the
    C(time), the C(digest) of everything that the release runs with on this host, and the C(settings), options of
    M(blueoctopus.site.release_build) without secrets.
  returned: success
  type: dict
"""
