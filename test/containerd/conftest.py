# SPDX-License-Identifier: Apache-2.0
import re

import pytest


@pytest.fixture
def name(request):
    """What the test's container is called."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:60].strip("-")
