"""The harness of the parity tests, for the stress tests too, with more time for each body."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# These bodies work for most of a minute on an idle machine.
BODY_SECONDS_MAX = 270

_PATH = Path(__file__).parent.parent / "parity" / "conftest.py"
_spec = importlib.util.spec_from_file_location("parity_harness_stress", _PATH)
assert _spec is not None and _spec.loader is not None
_harness = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _harness
_spec.loader.exec_module(_harness)
_harness.BODY_SECONDS_MAX = BODY_SECONDS_MAX

lib = _harness.lib
pytest_generate_tests = _harness.pytest_generate_tests
pytest_pyfunc_call = _harness.pytest_pyfunc_call
