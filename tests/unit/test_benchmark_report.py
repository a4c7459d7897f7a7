"""What a benchmark says of itself: ratios within a round, gaps told, the page that keeps the last runs."""

from __future__ import annotations

import pytest

from benchmarks.load import Load
from benchmarks.profiling import read_samples
from benchmarks.report import BEGIN, END, Report, with_run
from benchmarks.rounds import Found

PAGE = f"# Title\n\n{BEGIN}\n{END}\n\n## After\n"


def load(requests: int) -> Load:
    return Load(requests=requests, seconds=1.0, failures=0, latencies_s=[0.001])


def test_a_ratio_is_the_median_of_the_rounds_that_have_both_sides() -> None:
    found = Found()
    for number, (ours, theirs) in enumerate([(10, 5), (90, 10), (30, 10)]):
        found.note("ours", number, load(ours))
        found.note("theirs", number, load(theirs))
    found.note("theirs", 3, load(1))  # our side of this round has failed
    found.note("ours", 3, None)
    assert found.ratio(["ours"], "theirs") == 3.0
    assert found.per_second("ours") == [10.0, 90.0, 30.0]
    assert found.ratio(["missing"], "theirs") is None


def test_of_several_of_ours_the_best_of_each_round_counts() -> None:
    found = Found()
    for number, (few, many, theirs) in enumerate([(10, 20, 10), (40, 20, 10)]):
        found.note("few", number, load(few))
        found.note("many", number, load(many))
        found.note("theirs", number, load(theirs))
    assert found.ratio(["few", "many"], "theirs") == 3.0


async def test_a_part_that_fails_is_told_and_the_others_keep_their_numbers() -> None:
    async def fails() -> int:
        raise RuntimeError("no such server")

    async def works() -> int:
        return 7

    report = Report()
    report.row("something", "5 /s")
    assert await report.attempt("the first", fails) is None
    assert await report.attempt("the second", works) == 7
    text = report.markdown("2 cores")
    assert "the first: RuntimeError: no such server" in text and "| something | 5 /s |" in text


def test_a_target_says_whether_it_holds() -> None:
    report = Report()
    report.at_least("fast", 2.5, 2, 3)
    report.below("late", 15.0, 12, " ms")
    assert report.targets[0][2] == "≥ 2×: yes; the goal, 3×: **no**"
    assert report.targets[1][2] == "< 12 ms: **no**"


def test_the_page_keeps_this_run_and_the_one_before() -> None:
    page = PAGE
    for name in ("one", "two", "three"):
        page = with_run(page, f"numbers of {name}\n", name)
    assert page.index("### Run of three") < page.index("### Run of two") < page.index(END)
    assert "### Run of one" not in page
    assert page.startswith("# Title\n") and page.endswith(f"{END}\n\n## After\n")
    assert with_run(page, "numbers of three\n", "three") == page


def test_a_page_without_its_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="markers"):
        with_run("# Title\n", "numbers", "one")


def test_samples_are_counted_by_our_functions_and_by_whose_code_was_on_the_cpu() -> None:
    raw = (
        "main (python.py:1);submit (/x/tessera/api/jobs/routes.py:62);post (/site-packages/starlette/r.py:9) 3\n"
        "main (python.py:1);submit (/x/tessera/api/jobs/routes.py:70);show (/x/tessera/ids.py:46) 2\n"
        "main (python.py:1);wait (asyncio/tasks.py:5) 5\n"
    )
    found = read_samples(raw)
    assert found.total == 10
    assert found.within["submit (tessera/api/jobs/routes.py)"] == 5
    assert found.within["show (tessera/ids.py)"] == 2
    assert found.at == {"starlette": 3, "tessera": 2, "Python and asyncio": 5}
