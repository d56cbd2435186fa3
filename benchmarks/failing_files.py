"""Files that cannot be put in their place, once: in a campaign of `faults.py`, the sitecustomize of every process."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any


def install(file: str, final: str = ".h5") -> None:
    """Let `os.replace` of this process fail when `file` is there, for one process and one result; `file` is gone then.

    Not for what the child process of a label leaves: that is the label's own failure.
    """
    real, trigger = os.replace, Path(file)

    def replace(source: Any, target: Any, **options: Any) -> None:
        if str(target).endswith(final) and not str(target).endswith("calculation.h5"):
            try:
                trigger.unlink()
            except OSError:
                pass
            else:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(target))
        real(source, target, **options)

    os.replace = replace
