"""What several tests of audits read."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def news(tmp_path_factory):
    """Write lines of made-up words of which few are common."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{k}" for k in range(80)])
    often = 1 / (2 + np.arange(80))
    lines = [" ".join(rng.choice(words, 12, p=often / often.sum())) + "." for _ in range(400)]
    file = tmp_path_factory.mktemp("text") / "news.txt"
    file.write_text("\n".join(lines))
    return str(file)
