"""The shop's own tests: manage.py test, in a database that Django makes and drops."""

from decimal import Decimal

from django.test import TestCase, TransactionTestCase

from shop.models import Customer, Order


class OrderTests(TestCase):
    """In transactions that are rolled back."""

    def test_an_order_is_paid(self) -> None:
        customer = Customer.objects.create(name="Ann", balance=Decimal(10))
        response = self.client.post(f"/customers/{customer.pk}/orders", {"total": "4.00"})
        self.assertEqual((response.status_code, response.json()["balance"]), (201, "6.00"))
        self.assertEqual(Order.objects.get().items, {"count": 1})

    def test_an_order_without_money_is_refused(self) -> None:
        customer = Customer.objects.create(name="Bob", balance=Decimal(1))
        response = self.client.post(f"/customers/{customer.pk}/orders", {"total": "4.00"})
        self.assertEqual((response.status_code, Order.objects.count()), (409, 0))


class ReportTests(TransactionTestCase):
    """Outside of transactions: the report's cursor has a backend to itself."""

    def test_a_report_has_all_orders(self) -> None:
        customer = Customer.objects.create(name="Ann")
        Order.objects.bulk_create(Order(customer=customer, total=number) for number in range(1200))
        response = self.client.get("/report.csv")
        self.assertEqual(len(b"".join(response).splitlines()), 1200)
