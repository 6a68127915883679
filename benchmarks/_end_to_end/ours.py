"""``retiarii run`` with a look at where its time goes.

python ours.py OUT.json ARGUMENTS OF RETIARII
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from phases import looking


def main() -> None:
    out = Path(sys.argv.pop(1))
    with looking() as looks:
        from retiarii.cli import app

        try:
            app(sys.argv[1:], standalone_mode=False)
        finally:
            found = {"phases": looks.seconds, "cpu": time.process_time()}
            out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
