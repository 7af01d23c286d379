"""What long work says on a terminal, and nowhere else."""

import io

from thalweg.progress import stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def said(wanted: bool, stream: io.StringIO, monkeypatch) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with stage(wanted, "report on [wine].csv"):
        pass
    return stream.getvalue()


def test_a_stage_is_named_on_a_terminal_where_wanted(monkeypatch):
    assert "report on [wine].csv" in said(True, Terminal(), monkeypatch)
    assert said(False, Terminal(), monkeypatch) == ""
    assert said(True, io.StringIO(), monkeypatch) == ""
