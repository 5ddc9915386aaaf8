"""Judging what logging in to the endpoints has found: logins, versions, limits, roles, and settings that matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from poold.config.model import Config, EndpointConfig, GroupConfig
from poold.operations.advice import advice_on
from poold.operations.findings import OK, PROBLEM, WARNING, Finding
from poold.postgres.examination import Found, Visit

# libpq's number of the oldest version that is served with everything: what a COMMIT has done can be asked since 13,
# settings are reported as they change since 14. The tests run on later ones only.
OLDEST = 140000
# Besides a group's backends: the connection that asks for the role, and one for a question about a backend.
QUESTIONS = 2


def server_findings(config: Config, visits: Mapping[str, Visit], is_brief: bool = False) -> Iterator[Finding]:
    """Judge the visits; is_brief leaves out settings and rights."""
    for name, visit in visits.items():
        subject, endpoint = f"endpoint {name}", config.endpoints[name]
        yield from _logins(subject, endpoint, visit)
        if visit.found is not None:
            yield from _version(subject, visit.found)
            if not is_brief:
                groups = [group for group in config.groups.values() if name in group.endpoints]
                yield from _rights(subject, endpoint, visit.found)
                yield from _settings(subject, endpoint, groups, visit.found)
    yield from _limits(config, visits)
    for name, group in config.groups.items():
        yield from _roles(name, group, visits)


def _logins(subject: str, endpoint: EndpointConfig, visit: Visit) -> Iterator[Finding]:
    where = f"{endpoint.user} in {endpoint.dbname} at {endpoint.host}, port {endpoint.port}"
    if visit.found is not None:
        what = "replica" if visit.found.is_standby else "primary"
        yield Finding(subject, OK, f"PostgreSQL {_number(visit.found.version)} lets in {where}; it is a {what}")
    reasons: dict[str, list[str]] = {}
    for group, error in visit.failures.items():
        reasons.setdefault(error, []).append(group)
    for error, groups in reasons.items():
        whose = "" if groups == [""] else f", group {', '.join(each for each in groups if each)}"
        yield Finding(subject, PROBLEM, f"no login for {where}{whose}: {error}", advice_on(error))


def _version(subject: str, found: Found) -> Iterator[Finding]:
    if found.version < OLDEST:
        text = f"PostgreSQL {_number(found.version)} is older than {_number(OLDEST)}"
        yield Finding(
            subject, WARNING, text, "upgrade: long queries outlive the broker, and poold is not tested with it"
        )


def _rights(subject: str, endpoint: EndpointConfig, found: Found) -> Iterator[Finding]:
    if found.is_superuser:
        text = f"role {endpoint.user} is a superuser, and so is every client"
        yield Finding(subject, WARNING, text, "give the broker a role that may do what the programs need")
    if not found.sees_statistics:
        text = f"role {endpoint.user} sees little of other roles' sessions in pg_stat_activity"
        advice = f"GRANT pg_read_all_stats TO {endpoint.user}: then a replica tells a promotion at once"
        # Of its own sessions it sees everything, which is enough where there are no replicas.
        yield Finding(subject, WARNING if found.is_standby else OK, text, advice if found.is_standby else "")
    is_near = endpoint.host.startswith("/") or endpoint.host in ("localhost", "127.0.0.1", "::1")
    if not found.is_encrypted and not is_near:
        text = f"what passes to {endpoint.host} is not encrypted"
        yield Finding(subject, WARNING, text, 'let the server use ssl, and set sslmode = "verify-full"')


def _settings(subject: str, endpoint: EndpointConfig, groups: list[GroupConfig], found: Found) -> Iterator[Finding]:
    alter = f"ALTER ROLE {endpoint.user} SET"
    if found.idle_session_timeout:
        text = f"the server ends sessions that idle for {found.idle_session_timeout} ms, also those of the pool"
        yield Finding(subject, WARNING, text, f"{alter} idle_session_timeout = 0; max_idle does that for the pool")
    limits = {
        "idle_in_transaction_session_timeout": (
            found.idle_in_transaction_session_timeout, "idle_in_transaction_timeout",
            [group.idle_in_transaction_timeout for group in groups],
        ),
        "transaction_timeout": (
            found.transaction_timeout, "lease_timeout", [group.lease_timeout for group in groups],
        ),
    }  # fmt: skip
    for name, (value, key, own) in limits.items():
        if value and any(not seconds or value < seconds * 1000 for seconds in own):
            text = f"{name} is {value} ms: the server closes the connection before {key} rolls back"
            yield Finding(subject, WARNING, text, f"{alter} {name} = 0, or make {key} shorter")


def _limits(config: Config, visits: Mapping[str, Visit]) -> Iterator[Finding]:
    """Compare what the groups may open with what each server allows; endpoints of one server count together."""
    servers: dict[tuple[str, str], list[str]] = {}
    for name, visit in visits.items():
        if visit.found is not None:
            servers.setdefault((visit.found.system, visit.found.started), []).append(name)
    for names in servers.values():
        found = visits[names[0]].found
        assert found is not None
        subject = f"endpoint {' and '.join(names)}"
        # A group may have all of its backends on one endpoint, if the others are away or have another role.
        wanted = sum(group.max_size for group in config.groups.values() if {*group.endpoints} & {*names})
        wanted += QUESTIONS * len(names)
        bounds = [("the server", found.max_connections - found.reserved, "max_connections")]
        if found.role_limit >= 0:
            role = config.endpoints[names[0]].user
            bounds.append((f"role {role}", found.role_limit, "ALTER ROLE ... CONNECTION LIMIT"))
        if found.database_limit >= 0:
            bounds.append(("the database", found.database_limit, "ALTER DATABASE ... CONNECTION LIMIT"))
        groups = "groups may open up to"
        for who, allowed, how in bounds:
            if wanted > allowed:
                text = (
                    f"{groups} {wanted} connections (max_size, and {QUESTIONS} for questions), {who} allows {allowed}"
                )
                yield Finding(subject, PROBLEM, text, f"lower max_size, or raise {how}")
        free = found.max_connections - found.reserved - found.others
        if wanted <= found.max_connections - found.reserved:
            text = f"{groups} {wanted} of {found.max_connections} connections; {found.reserved} are reserved, others "
            text += f"have {found.others}"
            advice = "lower max_size, raise max_connections, or let the others use the broker as well"
            yield Finding(subject, WARNING if wanted > free else OK, text, advice if wanted > free else "")


def _roles(name: str, group: GroupConfig, visits: Mapping[str, Visit]) -> Iterator[Finding]:
    subject = f"group {name}"
    seen = {each: visits[each].found for each in group.endpoints}
    found = {each: what for each, what in seen.items() if what is not None}
    if len({what.system for what in found.values()}) > 1 and group.wanted != "any":
        text = f"endpoints {', '.join(found)} are of different database clusters"
        yield Finding(subject, PROBLEM, text, 'make a group for each, or role = "any" if it does not matter')
        return
    primaries = [each for each, what in found.items() if not what.is_standby]
    replicas = [each for each, what in found.items() if what.is_standby]
    silent = "" if len(found) == len(seen) else f"; not reached: {', '.join(sorted(seen.keys() - found.keys()))}"
    needs = f"role = {group.role!r}".replace("'", '"')
    if group.wanted == "primary" and not primaries:
        text = f"{needs} needs a primary, and none of {', '.join(seen)} is one{silent}"
        yield Finding(subject, PROBLEM, text, "promote a server, name the primary's endpoint, or correct role")
    elif group.wanted == "replica" and not replicas:
        text = f"{needs} needs a replica, and none of {', '.join(seen)} is one{silent}"
        yield Finding(subject, PROBLEM, text, 'name a replica\'s endpoint, or set role = "prefer-replica"')
    elif group.wanted == "any" and replicas and not group.read_only:
        text = f"{needs}, and {', '.join(replicas)} is a replica: writes fail there"
        yield Finding(subject, WARNING, text, 'set role = "primary", or read_only = true')
    elif not replicas and (group.route_reads or group.wanted == "prefer-replica"):
        text = f"reads are to run on replicas, and none of {', '.join(seen)} is one{silent}"
        yield Finding(
            subject, WARNING, text, "name replicas' endpoints in the group; until then reads run on the primary"
        )
    elif found:
        yield Finding(subject, OK, f"{needs} is met by {', '.join(replicas if group.wanted == 'replica' else found)}")


def _number(version: int) -> str:
    """Return libpq's number as people write it."""
    return f"{version // 10000}.{version % 10000}" if version >= 100000 else f"9.{version // 100 % 100}"
