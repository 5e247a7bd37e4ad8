"""A model as a run sees it: where it stands, what it is called in messages, whose attributes it has."""

from types import SimpleNamespace

from acutance.pool import ModelEntry
from acutance.run.members import Member
from acutance.run.standing import Standing


def member(**entry):
    return Member("toy/net1", SimpleNamespace(), ModelEntry(id="net1", architecture="mlp", **entry))


def test_a_model_is_taken_back_where_nothing_speaks_against_it():
    one = member()
    assert one.compared and one.usable
    for standing, usable in ((Standing.REFUSED, True), (Standing.EXCLUDED, False), (Standing.BROKEN, False)):
        one.leave_out(standing, "a reason")
        assert (one.standing, one.reason, one.compared, one.usable) == (standing, "a reason", False, usable)
    one.leave_out(Standing.REFUSED, "")
    assert one.compared and one.reason == ""


def test_a_message_that_holds_for_several_models_names_none_of_them():
    assert member().general("toy/net1: net1 is net12, not net1") == "*: * is net12, not *"
    assert member(path="/data/net1.pt").general("/data/net1.pt and net1.pt") == "* and *"


def test_attributes_from_outside_go_before_those_of_the_pool():
    one = member(attributes={"rate": 1, "seed": 2})
    one.add_attributes({"rate": 3})
    assert one.attributes == {"rate": 3, "seed": 2} and one.description["attributes"] == one.attributes
    assert one.entry.attributes == {"rate": 1, "seed": 2}
