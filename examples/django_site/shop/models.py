"""What the shop keeps."""

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Customer(models.Model):
    """Somebody with a balance."""

    name = models.CharField(max_length=100)
    balance = models.DecimalField(max_digits=10, decimal_places=2, default=0)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """What a customer has ordered."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="orders")
    total = models.DecimalField(max_digits=10, decimal_places=2)
    placed = models.DateTimeField(auto_now_add=True)
    items = models.JSONField(default=dict)
    labels = ArrayField(models.CharField(max_length=20), default=list, blank=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.customer}: {self.total}"
