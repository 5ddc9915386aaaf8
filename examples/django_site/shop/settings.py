"""The project's settings. What poold needs is DATABASES; all else is any Django project's."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
# For an example on one's own machine; a real key is a secret.
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "an example's, known to everybody")
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

DATABASES = {
    "default": {
        "ENGINE": "poold.django",
        # The broker's address is where `poold start` and POOLD_ADDRESS say; see docs/configuration.md.
        "NAME": os.environ.get("SHOP_DATABASE", ""),
        "OPTIONS": {"group": os.environ.get("SHOP_GROUP", "default"), "tag": "shop"},
        "TEST": {"NAME": "test_shop", "GROUP": "test_shop", "ADMIN_GROUP": "maintenance"},
    }
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
