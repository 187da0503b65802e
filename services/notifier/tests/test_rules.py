"""What follows from an end, as rules without any IO."""

from __future__ import annotations

import ipaddress
import json
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.notifier.config import NotifierConfig
from aerodrome.notifier.domain.deliveries import (
    INTERRUPTIONS,
    Claimed,
    Outcome,
    Patience,
    Planned,
    Result,
    Status,
    judge,
    judge_interrupted,
)
from aerodrome.notifier.domain.network import refusal
from aerodrome.notifier.domain.planning import Channel, Texts, plan, read
from aerodrome.notifier.domain.rules import PHASES, Rule
from aerodrome.notifier.domain.templates import render, render_html, render_line, variables
from aerodrome.notifier.senders.port import HIDDEN, shown
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument

from .conftest import START, ended, notification

TEXTS = Texts("[{{ domain }}] {{ launch_plan.name }} {{ phase }}", "{{ name }}.{{ error }}")
PATIENCE = Patience(attempts=5, max_age=timedelta(hours=1), first=timedelta(seconds=1), longest=timedelta(minutes=1))


def claimed(failures: int = 0, interrupted: int = 0, **more: Any) -> Claimed:
    planned = Planned("k", "p", "d", "n", "FAILED", "r", "c", "webhook", "h", "s", "{}")
    return Claimed(1, failures + interrupted + 1, failures, interrupted, START, planned, **more)


# Templates


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ project }}/{{domain}}/{{ name }}", "fly/development/run"),
        ("{{ phase }}{{ error }}", "failed The execution failed with error: [<b>no</b> {{ project }}]."),
        (
            "{{ workflow.project }} {{workflow.domain}} {{ workflow.name }} {{ workflow.version }}",
            "fly development wf.main v1",
        ),
        (
            "{{ launch_plan.project }} {{launch_plan.domain}} {{ launch_plan.name }} {{ launch_plan.version }}",
            "fly development lp v1",
        ),
        ("{{ unknown }} {{unknown}} {{  project  }}", "{{ unknown }} {{unknown}} {{  project  }}"),
        ("{{ labels.team }} {{ principal }} {{ duration }} {{ started_at }}", "birds ann 1m5s 2026-03-02T12:00:00Z"),
        ("{{ console_url }}", "https://c/x"),
    ],
)
def test_places_are_filled_in_plainly_and_once(template: str, expected: str) -> None:
    assert render(template, variables(ended(), "https://c/x")) == expected


def test_an_end_without_error_has_an_empty_sentence() -> None:
    assert render("ended.{{ error }}", variables(ended(phase="SUCCEEDED"))) == "ended."


def test_what_is_put_into_html_is_text_and_a_subject_is_one_line() -> None:
    values = variables(ended())
    assert "&lt;b&gt;no&lt;/b&gt;" in render_html("<p>{{ error }}</p>", values)
    assert render_line("a\r\nBcc: x@y\0 {{ name }}", values) == "a Bcc: x@y run"
    assert len(render_line("x" * 5000, values)) == 400


@given(st.text(max_size=60), st.dictionaries(st.sampled_from(["a", "b.c"]), st.text(max_size=30)))
def test_rendering_ends_and_values_are_never_read_as_templates(template: str, values: dict[str, str]) -> None:
    text = render(template, values)
    if "{{" not in template:
        assert text == template.replace("\0", "")
    assert render("{{ a }}", {"a": "{{ b.c }}", "b.c": "no"}) == "{{ b.c }}"


# Rules


@pytest.mark.parametrize(
    ("fields", "matches"),
    [
        ({}, True),
        ({"projects": ("f*",), "domains": ("production", "dev*")}, True),
        ({"projects": ("Fly",)}, False),
        ({"domains": ("production",)}, False),
        ({"launch_plans": ("l?",), "workflows": ("wf.*",)}, True),
        ({"workflows": ("other.*",)}, False),
        ({"labels": {"team": "b*"}}, True),
        ({"labels": {"team": "b*", "tier": "*"}}, False),
        ({"phases": frozenset({"SUCCEEDED"})}, False),
        ({"children": False}, True),
    ],
)
def test_a_rule_is_about_what_its_patterns_say(fields: dict[str, Any], matches: bool) -> None:
    assert Rule("r", ("c",), **fields).matches(ended()) is matches


def test_children_may_be_left_out() -> None:
    child = ended(parent={"project": "fly", "domain": "development", "name": "parent"})
    assert not Rule("r", ("c",), children=False).matches(child)
    assert Rule("r", ("c",)).matches(child)


@pytest.mark.parametrize("phase", PHASES)
def test_own_notifications_follow_their_phases_and_each_kind_is_a_mail(phase: str) -> None:
    own = [
        notification("email", "a@x.org", "b@x.org", phases=("FAILED", "ABORTED")),
        notification("slack", "room@slack.org", phases=("SUCCEEDED",), template="<i>{{ name }}</i>"),
        notification("pager_duty", "svc@pager.org", phases=PHASES),
    ]
    planned = plan(ended(phase=phase, notifications=own), [], {}, TEXTS)
    expected = {"FAILED": ["a", "b", "svc"], "ABORTED": ["a", "b", "svc"], "SUCCEEDED": ["room", "svc"]}
    assert [each.recipient.split("@")[0] for each in planned] == expected.get(phase, ["svc"])
    assert {each.kind for each in planned} == {"email"}
    assert len({each.key for each in planned}) == len(planned)
    if phase == "SUCCEEDED":
        content = json.loads(planned[0].content)
        assert content == {"subject": "[development] lp succeeded", "html": "<i>run</i>", "to": ["room@slack.org"]}
        assert planned[0].rule == "notification 2 (slack)"


def test_keys_are_those_of_the_end_the_rule_and_the_recipient() -> None:
    channels = {"one": Channel("webhook", ("h",)), "two": Channel("slack", ("h",))}
    rules = [Rule("r", ("one", "two")), Rule("s", ("one",))]
    first = plan(ended(), rules, channels, TEXTS)
    assert [each.key for each in first] == [each.key for each in plan(ended(), rules, channels, TEXTS)]
    others = plan(ended(number=8), rules, channels, TEXTS) + plan(ended("other"), rules, channels, TEXTS)
    assert len({each.key for each in (*first, *others)}) == 9


@given(message=st.text(max_size=4000), label=st.text(max_size=50))
def test_every_kind_of_message_is_json_whatever_the_execution_says(message: str, label: str) -> None:
    end = ended(labels={"x": label}, error={"message": message})
    kinds = ("email", "slack", "teams", "pagerduty", "webhook")
    channels = {kind: Channel(kind, ("r",)) for kind in kinds}
    planned = plan(end, [Rule("r", kinds, body="{{ error }} {{ labels.x }}")], channels, TEXTS, "https://c")
    contents = {each.kind: json.loads(each.content) for each in planned}
    assert set(contents) == set(kinds)
    assert all("\0" not in each.content for each in planned)
    assert all(len(block["text"]["text"]) <= 3000 for block in contents["slack"]["blocks"] if "text" in block)
    assert len(contents["pagerduty"]["payload"]["summary"]) <= 1024
    assert contents["pagerduty"]["dedup_key"] == planned[3].key
    assert contents["webhook"]["id"] == planned[4].key


@given(st.binary(max_size=300), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_whatever_the_bus_brings_is_refused_or_planned(noise: bytes, seconds: int, nanos: int) -> None:
    try:
        read(noise)
    except InvalidArgument:
        pass
    message = ended(notifications=[noise, notification("email", "a@x.org")])
    for field in (message.ended_at, message.started_at):
        field.seconds, field.nanos = seconds, nanos
    message.annotations["x"] = noise.decode(errors="replace")
    kinds = ("email", "slack", "teams", "pagerduty", "webhook")
    channels = {kind: Channel(kind, ("r",)) for kind in kinds}
    planned = plan(read(message.SerializeToString()), [Rule("r", kinds)], channels, TEXTS)
    assert len([each for each in planned if each.recipient == "r"]) == len(kinds)
    assert "a@x.org" in [each.recipient for each in planned]


def test_many_recipients_do_not_see_each_other() -> None:
    many = [f"a{number}@x.org" for number in range(30)]
    planned = plan(ended(notifications=[notification("email", *many)]), [], {}, TEXTS)
    assert [json.loads(each.content)["to"] for each in planned] == [[address] for address in many]


# What follows from an attempt


@given(
    failures=st.integers(0, 30), seed=st.integers(), wait=st.none() | st.integers(0, 10**6), age=st.integers(0, 7200)
)
def test_a_postponed_delivery_waits_within_bounds_or_is_given_up(
    failures: int, seed: int, wait: int | None, age: int
) -> None:
    now = START + timedelta(seconds=age)
    result = Result(Outcome.POSTPONED, error="away", not_before=None if wait is None else timedelta(seconds=wait))
    verdict = judge(claimed(failures), result, now, PATIENCE, random.Random(seed))
    if failures + 1 >= PATIENCE.attempts:
        assert verdict.status is Status.FAILED
    if verdict.status is Status.WAITING:
        pause = verdict.due_at - now
        assert timedelta(0) < pause <= PATIENCE.longest
        assert pause >= min(PATIENCE.first * 2**failures, PATIENCE.longest) / 2
        assert verdict.due_at <= START + PATIENCE.max_age
        assert pause >= min(result.not_before or pause, PATIENCE.longest)
    else:
        assert verdict.status is Status.FAILED
        assert "away" in verdict.error


def test_refusals_are_for_good_and_tests_are_tried_once() -> None:
    chance = random.Random(1)
    assert judge(claimed(), Result(Outcome.REFUSED, error="x"), START, PATIENCE, chance).status is Status.FAILED
    assert judge(claimed(), Result(Outcome.DELIVERED), START, PATIENCE, chance).status is Status.DELIVERED
    assert judge(claimed(), Result(Outcome.NOT_SENT), START, PATIENCE, chance).status is Status.NOT_SENT
    once = judge(claimed(once=True), Result(Outcome.POSTPONED, error="x"), START, PATIENCE, chance)
    assert (once.status, once.error) == (Status.FAILED, "x")


def test_interruptions_are_no_failures_but_are_bounded() -> None:
    assert judge_interrupted(claimed(interrupted=INTERRUPTIONS - 1), START, PATIENCE) is None
    assert "ended with the process" in (judge_interrupted(claimed(interrupted=INTERRUPTIONS), START, PATIENCE) or "")
    late = START + PATIENCE.max_age + timedelta(seconds=1)
    assert "within 1 h" in (judge_interrupted(claimed(interrupted=1), late, PATIENCE) or "")
    assert judge_interrupted(claimed(), late, PATIENCE) is None  # it has waited long, but is tried


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fd00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1",
        "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_of_this_machine_and_its_networks_are_refused(address: str) -> None:
    assert "notifier.network.allow" in (refusal(ipaddress.ip_address(address), ()) or "")


def test_the_internet_and_what_is_allowed_may_be_called() -> None:
    for address in ("93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"):
        assert refusal(ipaddress.ip_address(address), ()) is None
    allowed = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
    assert refusal(ipaddress.ip_address("::ffff:10.1.1.1"), allowed) is None
    assert refusal(ipaddress.ip_address("fd00::1"), allowed) is None
    assert refusal(ipaddress.ip_address("192.168.0.1"), allowed) is not None


@given(st.ip_addresses(v=4))
def test_an_address_may_be_called_in_each_of_its_forms_or_in_none(address: ipaddress.IPv4Address) -> None:
    mapped = ipaddress.IPv6Address(f"::ffff:{address}")
    translated = ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | int(address))
    assert len({refusal(each, ()) is None for each in (address, mapped, translated)}) == 1


# Configuration


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"rules": [{"name": "r", "channels": ["none"]}]}, "notifier.channels does not have"),
        ({"channels": {"c": {"type": "slack"}}}, "needs url, urlPath or urlEnv"),
        ({"channels": {"c": {"type": "webhook", "url": "https://x.org"}}}, "requests are signed"),
        ({"channels": {"c": {"type": "pagerduty"}}}, "needs routingKey"),
        ({"channels": {"c": {"type": "email"}}}, "needs recipients"),
        ({"channels": {"c": {"type": "slack", "url": "ftp://the-secret/x"}}}, "https://host/path"),
        ({"network": {"allow": ["10.0.0.0/33"]}}, "10.0.0.0/33"),
        (
            {
                "channels": {"c": {"type": "email", "recipients": ["a@b"]}},
                "rules": [{"name": "r", "channels": ["c"], "phases": ["RUNNING"]}],
            },
            "RUNNING is none",
        ),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_what_to_do(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as caught:
        NotifierConfig.model_validate({"notifier": section})
    assert says in str(caught.value)
    assert "the-secret" not in str(caught.value)


def test_mail_needs_a_server_and_a_sender() -> None:
    for notifications in (
        {"emailer": {"email_server_config": {"service_name": "smtp"}}},
        {"emailer": {"email_server_config": {"service_name": "smtp", "smtp_server": "x"}}},
        {"type": "aws"},
    ):
        with pytest.raises(ValueError):
            NotifierConfig.model_validate({"notifications": notifications})


def test_secrets_are_read_where_they_are_and_what_is_missing_is_named(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "smtp").write_text("from-a-file\n")
    emailer = {
        "sender": "a@b",
        "email_server_config": {"service_name": "smtp", "smtp_server": "x", "smtp_password_secret_name": "smtp"},
    }
    raw: dict[str, Any] = {"notifications": {"emailer": emailer}, "secrets": {"secrets_prefix": str(tmp_path)}}
    assert NotifierConfig.model_validate(raw).mail_password() == "from-a-file"
    (tmp_path / "smtp").unlink()
    config = NotifierConfig.model_validate(raw)
    with pytest.raises(FailedPrecondition, match="FLYTE_SECRET_SMTP"):
        config.mail_password()
    monkeypatch.setenv("FLYTE_SECRET_SMTP", "from-the-environment")
    assert config.mail_password() == "from-the-environment"


def test_what_is_shown_holds_no_secret_and_is_short() -> None:
    assert shown("a\nthe-key b\0", ["the-key", ""]) == f"a {HIDDEN} b"
    assert len(shown("x" * 5000)) == 1000
