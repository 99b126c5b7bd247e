# SPDX-License-Identifier: Apache-2.0
"""What the daemon serves at /metrics, for a daemon whose configuration has METRICS in it."""
import re
import urllib.request

METRICS = '[metrics]\naddress = "127.0.0.1:0"\n'


def scrape(daemon):
    """{"name{labels}": value}"""
    port = re.findall(r"metrics are served on port (\d+)", daemon.log_text())[-1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line and line[0] != "#"}


def of(values, name, **labels):
    found = [v for key, v in values.items()
             if key.split("{")[0] == name and all(f'{k}="{label}"' in key for k, label in labels.items())]
    return sum(found) if found else None
