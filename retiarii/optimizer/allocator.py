"""Keeps freed memory in the process on Linux: merged tensors are big, and asked for at each step.

The C library gives big blocks back to the system as soon as they are freed, and the system hands
out zeroed pages when they are asked for again. For tensors of a megabyte that costs as much as
computing with them. Models that are trained one by one have small tensors and do not notice.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

# From malloc.h.
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_MOST: Final = 2**31 - 1


def keep_memory() -> bool:
    """Asks the C library to keep what is freed, for as long as the process lives.

    ``RETIARII_KEEP_MEMORY=0`` leaves it as it is; so do the library's own ``MALLOC_`` variables.

    Returns:
        Whether it was asked, and agreed: only glibc knows the request.
    """
    own = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD")
    if os.environ.get("RETIARII_KEEP_MEMORY") == "0" or any(name in os.environ for name in own):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, _MOST), (_TOP_PAD, 64 << 20))
    return all(mallopt(name, value) == 1 for name, value in wanted)
