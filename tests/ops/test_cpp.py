"""The C++ tests, which call the kernels of every instruction set that this processor has, not only the widest one."""

import re
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parent / "cpp" / "run.py"


def test_cpp_tests_pass():
    """Compiles for about a minute, later on only what has changed in build/cpp_tests."""
    result = subprocess.run([sys.executable, RUN], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "kernels: baseline" in result.stdout
    passed = re.search(r"(\d+) checks passed, 0 failed", result.stdout)
    assert passed and int(passed.group(1)) > 1000
