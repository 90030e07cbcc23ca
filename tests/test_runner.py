from __future__ import annotations

import pytest

from bench import runner


def test_a_slot_for_each_gpu_under_the_names_the_user_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    def visible(count: int) -> list[str]:
        return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in runner._slots("cuda", count)]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert visible(2) == ["3", "1"]
    # On a CPU one worker at a time, whatever there is.
    assert [slot.environment for slot in runner._slots("cpu", 8)] == [{}]


def test_every_signal_has_a_word() -> None:
    assert runner._why(-9, 1) == ("killed", "the process was ended by SIGKILL")
    # Linux has signals that Python has no name for.
    assert runner._why(-40, 1) == ("killed", "the process was ended by signal 40")
    assert runner._why(None, 2.5) == ("timeout", "ran for 2.5 s without an end")
    assert runner._why(3, 1)[0] == "error"
