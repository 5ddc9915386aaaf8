"""Tests of Django's own that are left out with ENGINE = "poold.django", and why: what this backend does otherwise.

In the form of Django's `django_test_skips`. Each of them passes with Django's own backend and psycopg2.
"""

SKIPS = {
    "CONN_HEALTH_CHECKS is void: a connection holds no backend whose health could be checked": {
        "backends.base.test_base.ConnectionHealthChecksTests.test_health_checks_enabled",
        "backends.base.test_base.ConnectionHealthChecksTests.test_set_autocommit_health_checks_enabled",
    },
    "CREATE DATABASE runs in TEST['ADMIN_GROUP']; there is no other database to fall back to": {
        "backends.postgresql.tests.Tests.test_nodb_cursor",
        "backends.postgresql.tests.Tests.test_nodb_cursor_raises_postgres_authentication_failure",
    },
    "OPTIONS['pool'] is void, with a system check": {
        "backends.postgresql.tests.Tests.test_connect_pool_setting_ignored_for_psycopg2",
    },
    "the time zone travels with statements and is not set when connecting": {
        "backends.postgresql.tests.Tests.test_bypass_timezone_configuration",
    },
    "the broker keeps standard_conforming_strings: all clients rely on it": {
        "postgres_tests.test_unaccent.UnaccentTest.test_unaccent_with_conforming_strings_off",
        "postgres_tests.test_unaccent.UnaccentTextFieldTest.test_unaccent_with_conforming_strings_off",
    },
}
