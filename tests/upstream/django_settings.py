"""The settings with which Django's own tests are run, see test_django_upstream.py.

DATABASES comes as JSON in a variable; for each test a line of JSON is written to the file that another one names.
"""

# ruff: noqa: N802, N815 - the names are unittest's

import json
import os
import unittest
from typing import Any

from django.test.runner import DiscoverRunner
from django.utils.functional import cached_property
from django_skips import SKIPS

DATABASES = json.loads(os.environ["POOLD_UPSTREAM_DATABASES"])
OUTCOMES = os.environ["POOLD_UPSTREAM_OUTCOMES"]
SECRET_KEY = "not a secret"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
# As Django's own settings for its tests have it.
USE_TZ = False
TEST_RUNNER = "django_settings.Runner"


class Outcomes(unittest.TextTestResult):
    """Writes down what became of each test."""

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        tell(test, "passed", "")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        tell(test, "skipped", reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        tell(test, "skipped", "Django expects it to fail")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        tell(test, "failed", "it passes, and Django expects it to fail")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        tell(test, "failed", self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    addError = addFailure

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            tell(test, "failed", self._exc_info_to_string(err, test))  # type: ignore[attr-defined]


class Runner(DiscoverRunner):
    """Django's runner, with what it is known that this backend does otherwise left out."""

    def get_resultclass(self) -> type[unittest.TextTestResult]:
        return Outcomes

    def setup_databases(self, **kwargs: Any) -> Any:
        if DATABASES["default"]["ENGINE"] == "poold.django":
            from poold.django.features import DatabaseFeatures

            theirs = DatabaseFeatures.django_test_skips.func
            skips = cached_property(lambda features: {**theirs(features), **SKIPS})
            skips.__set_name__(DatabaseFeatures, "django_test_skips")
            DatabaseFeatures.django_test_skips = skips
        return super().setup_databases(**kwargs)


def tell(test: unittest.TestCase, outcome: str, reason: str) -> None:
    """Write a line about a test; with O_APPEND it may be one of several processes that do so."""
    with open(OUTCOMES, "a", encoding="utf-8") as file:
        file.write(json.dumps([test.id(), outcome, reason]) + "\n")
