"""Tests on other versions of Python and of the dependencies, and of what is published.

`make matrix` runs every session; `nox --list` names them.
"""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False
