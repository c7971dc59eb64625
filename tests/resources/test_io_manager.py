"""Nothing is pickled: a step that returns a value is refused with words that help."""

import dagster as dg
import pytest

from resources.io_manager import NoPickle


def test_a_returned_value_is_refused_and_the_words_say_what_to_do() -> None:
    @dg.asset
    def greedy():  # type: ignore[no-untyped-def]
        return {"a": 1}

    with pytest.raises(
        dg.DagsterInvariantViolationError, match="returned a dict, and Nightshelf pickles nothing"
    ):
        dg.materialize([greedy], resources={"io_manager": NoPickle()})


def test_steps_that_return_nothing_or_a_result_pass() -> None:
    @dg.asset
    def nothing() -> None: ...

    @dg.asset(deps=[nothing])
    def result() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"rows": 1})

    assert dg.materialize([nothing, result], resources={"io_manager": NoPickle()}).success


def test_a_value_cannot_be_asked_for() -> None:
    @dg.asset
    def nothing() -> None: ...

    @dg.asset
    def wants(nothing: object) -> None: ...

    with pytest.raises(dg.DagsterInvariantViolationError, match="hand on files, not values"):
        dg.materialize([nothing, wants], resources={"io_manager": NoPickle()})
