# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: the configuration is read again, checked first; what cannot change in a daemon that runs is named."""
import os
import signal

from harness.registry import wait_for


def edit(daemon, change):
    with open(daemon.config) as f:
        text = f.read()
    with open(daemon.config, "w") as f:
        f.write(change(text))


def reload(daemon, said):
    before = daemon.log_text().count(said)
    os.kill(daemon.process.pid, signal.SIGHUP)
    wait_for(f"the log says {said!r}", lambda: daemon.log_text().count(said) > before, 20)


def test_log_level_takes_effect_and_others_are_named(make_daemon):
    daemon = make_daemon()
    daemon.client.Version()
    assert "level=debug" not in daemon.log_text()
    edit(daemon, lambda text: 'log_level = "debug"\nmax_threads = 99\n' + text)
    reload(daemon, "the configuration and the streaming certificate are read again")
    assert "the new 'log_level' is in effect" in daemon.log_text()
    assert "'max_threads' has changed, which takes effect when caissond is started again" in daemon.log_text()
    daemon.client.Version()
    wait_for("a debug line", lambda: "level=debug" in daemon.log_text(), 20)
    # Named once: the next reload compares with this one.
    reload(daemon, "the configuration and the streaming certificate are read again")
    assert daemon.log_text().count("'max_threads' has changed") == 1


def test_a_bad_file_changes_nothing(make_daemon):
    daemon = make_daemon()
    edit(daemon, lambda text: 'log_level = "debug"\nmax_treads = 99\n' + text)
    reload(daemon, "the configuration stays as it is")
    assert "max_treads" in daemon.log_text()
    daemon.client.Version()
    assert "level=debug" not in daemon.log_text()
