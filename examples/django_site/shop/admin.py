"""The admin's pages."""

from django.contrib import admin

from shop.models import Customer, Order


@admin.register(Customer)
class CustomerAdmin(admin.ModelAdmin):
    """Customers."""

    list_display = ("name", "balance")
    search_fields = ("name",)


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    """Orders, by day."""

    list_display = ("id", "customer", "total", "placed")
    date_hierarchy = "placed"
