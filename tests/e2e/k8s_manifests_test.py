"""What deploy/ promises, as rendered: each rule by name (folder k8s). Needs no cluster."""

import os
import subprocess
import sys

from support import main, paths

sys.path.insert(0, os.path.join(paths.SOURCE, "tools", "k8s"))
SKIPPED = 77  # as in CMakeLists.txt


def skip_unless_it_can_run():
    try:
        import render
    except ImportError as error:
        print(f"skipped: {error} (Debian: python3-yaml)")
        sys.exit(SKIPPED)
    try:
        render.find_renderer()
    except render.NoRenderer as error:
        made = subprocess.run(["./dev", "k8s", "kustomize"], cwd=paths.SOURCE, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            print(f"skipped: {error}; and kustomize could not be built: {made.stderr.strip()[-500:]}")
            sys.exit(SKIPPED)


skip_unless_it_can_run()
from k8s.cluster_rules import *  # noqa: E402,F401,F403
from k8s.image_rules import *  # noqa: E402,F401,F403
from k8s.workload_rules import *  # noqa: E402,F401,F403

if __name__ == "__main__":
    main()
