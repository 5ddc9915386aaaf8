"""What the shop answers."""

from collections.abc import Iterator
from decimal import Decimal

from django.db import transaction
from django.db.models import Count, Sum
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from shop.models import Customer, Order


@csrf_exempt
@require_POST
def order(request: HttpRequest, customer: int) -> JsonResponse:
    """Place an order, if the customer can pay: a transaction, which holds one backend from here to its end."""
    total = Decimal(request.POST["total"])
    with transaction.atomic():
        buyer = Customer.objects.select_for_update().get(pk=customer)
        if buyer.balance < total:
            return JsonResponse({"error": "not enough money"}, status=409)
        buyer.balance -= total
        buyer.save(update_fields=["balance"])
        placed = Order.objects.create(customer=buyer, total=total, items={"count": 1})
    return JsonResponse({"order": placed.pk, "balance": str(buyer.balance)}, status=201)


@require_GET
def summary(request: HttpRequest) -> JsonResponse:
    """What has been sold: one statement, for which any backend will do."""
    found = Order.objects.aggregate(orders=Count("id"), total=Sum("total"))
    return JsonResponse({"orders": found["orders"], "total": str(found["total"] or 0)})


@require_GET
def report(request: HttpRequest) -> StreamingHttpResponse:
    """All orders as lines, read in parts: a cursor of the server's, with one backend to itself until the end."""

    def lines() -> Iterator[str]:
        for each in Order.objects.select_related("customer").iterator(chunk_size=500):
            yield f"{each.pk},{each.customer.name},{each.total}\n"

    return StreamingHttpResponse(lines(), content_type="text/csv")
