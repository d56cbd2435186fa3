"""Makes the fake calculators and the stand-in for VASP importable, as a user's modules on PYTHONPATH would be."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
