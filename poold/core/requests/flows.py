"""Which requests the lane may run from now on: those like one that has just ended, if everything about it was plain."""

from __future__ import annotations

from client.wire.codec import packed
from client.wire.limits import BATCH
from poold.core.agenda import Agenda
from poold.core.effects import Teach
from poold.core.pools.group import Group
from poold.core.records.flow import MAX_MESSAGE_BYTES, TICK_SECONDS, Flow
from poold.core.records.request import QUERY, Request, Verb
from poold.core.statements.statement import PREPARED, SHORT_SECONDS, Statement
from poold.core.work.script import Script


class Flows:
    """Teaches the lane its flows."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda

    def learn(self, request: Request, now: float) -> bool:
        """The request has ended well: whether the lane would run another one like it now."""
        flow: Flow | None = None
        if request.is_shown or is_watched_closely(request.group):
            return False
        if request.size > MAX_MESSAGE_BYTES:
            return False
        if request.verb is QUERY and request.statement is not None:
            flow = self._of_query(request, request.statement)
        elif request.verb is Verb.TRANSACTION and request.script is not None:
            flow = self._of_transaction(request, request.script)
        return flow is not None and now >= flow.rests_until

    def _of_query(self, request: Request, statement: Statement) -> Flow | None:
        group = request.group
        if request.lease is not None or request.priority == BATCH or not request.prepare or request.is_literal:
            return None
        if statement.expected >= SHORT_SECONDS or not _may_run(statement, group):
            return None
        if group.routes_reads and statement.proof.is_plain_read:
            return None  # the next one is for a replica
        flow, asked = statement.flow, group.name if request.message is None else request.message.group
        if flow is None or flow.asked != asked:
            key = packed(asked, 0, False, statement.sql, statement.types)
            flow = statement.flow = Flow(key, group, (statement,), statement.generation, asked=asked)
        return self._taught(flow)

    def _of_transaction(self, request: Request, script: Script) -> Flow | None:
        group, plan = request.group, script.plan
        if request.priority == BATCH or not script.is_plain or group.config.read_only:
            return None
        if script.is_read_only and group.replicas is not None:
            return None  # the next one is for a replica
        found = tuple(plan.statement(place) for place in range(len(plan.steps)))
        if not all(_may_run(each, group) for each in found):
            return None
        flow = plan.flows.get(script.shape)
        if flow is None or flow.statements[1:-1] != found:
            own = group.statements.own
            statements = (own(script.begin_text), *found, own(b"COMMIT"))
            flow = Flow(packed(*script.shape), group, statements, group.statements.generation, plan)
            plan.flows[script.shape] = flow
        return self._taught(flow)

    def _taught(self, flow: Flow) -> Flow:
        if not flow.is_taught:
            flow.is_taught = True
            self._agenda.effects.append(Teach(flow))
        return flow


def is_watched_closely(group: Group) -> bool:
    """Whether more of what its requests take is to be logged than the lane would notice."""
    config = group.config
    return 0 < config.log_slow < TICK_SECONDS or 0 < config.log_long_wait < TICK_SECONDS


def _may_run(statement: Statement, group: Group) -> bool:
    """Whether the statement may run with any values, without a look at its text or at what it has left behind."""
    return (
        statement.state is PREPARED
        and statement.is_harmless
        and statement.generation == group.statements.generation
        and not statement.is_forgotten
        and not statement.has_cast
        and not statement.is_remarkable
        and not statement.settings
        and (statement.proof.is_plain_read or not group.config.read_only)
    )
