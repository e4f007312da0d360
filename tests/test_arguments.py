import argparse

import pytest

from mask2former_ext.arguments import positive, whole_number


def test_numbers():
    assert (whole_number("0"), whole_number("12"), positive("1")) == (0, 12, 1)
    for kind, text in ((whole_number, "-1"), (whole_number, "1.5"), (positive, "0"), (positive, "two"), (positive, "")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text} is not a whole number"):
            kind(text)
