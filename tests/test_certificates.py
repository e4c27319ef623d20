"""How certificates are shown: one sentence with the worst of them, one table of all."""

from types import SimpleNamespace

from shoal.measures import EQUATIONS
from shoal.report.certificates import certificates


def cohort(name, *alone, record=0.0, steps=25, members=20):
    """A cohort of which these members were retrained alone, or one without a certificate."""
    each = {f"{name}-{i}": {"loss": loss, "parameters": parameters} for i, (loss, parameters) in enumerate(alone)}
    certificate = {"members": members, "steps": steps, "alone": each, "record": record}
    return SimpleNamespace(id=name, certificate=lambda: certificate if alone else None, measures=lambda: EQUATIONS)


def test_the_worst_of_all_cohorts_is_in_the_sentence_and_each_is_in_the_table():
    folders = [cohort("a", (0.0, 1e-7), (3e-6, 2e-7)), cohort("b", (1e-6, 0.004), record=2e-5, steps=50), cohort("c")]
    (sentence,), (table,) = certificates(folders)
    assert sentence == (
        "Certificates: in 2 cohorts (none of 1 more), losses of 3 members retrained alone differ from the stack's by "
        "at most 3e-06 nats, parameters by 0.004; losses of the stack retrained differ from the record by at most "
        "2e-05 nats."
    )
    assert [(label, [cell.text for cell in cells]) for label, cells in table.rows] == [
        ("a", ["20", "2", "25", "3e-06", "2e-07", "0"]),
        ("b", ["20", "1", "50", "1e-06", "0.004", "2e-05"]),
    ]
    assert len(table.header) == 7
    assert "some of which may be of other studies" in table.caption


def test_what_was_not_recorded_or_not_certified_is_no_number():
    (sentence,), (table,) = certificates([cohort("a", (0.0, 0.0), record=None)])
    assert sentence == (
        "Certificates: in 1 cohort, losses of 1 member retrained alone differ from the stack's by at most 0 nats, "
        "parameters by 0."
    )
    assert table.rows[0][1][-1].text == "–"
    assert certificates([cohort("a")]) == certificates([]) == ([], [])


def test_where_nothing_was_stacked_the_sentence_says_so():
    single, several = cohort("a", (0.0, 0.0), members=1), cohort("b", (0.0, 0.0))
    assert "nothing was stacked" in certificates([single])[0][0]
    assert "nothing was stacked" not in certificates([single, several])[0][0]
