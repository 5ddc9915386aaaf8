"""Django's database backend on poold: ENGINE = "poold.django" in DATABASES."""
