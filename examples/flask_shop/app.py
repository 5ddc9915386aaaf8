"""A shop with Flask-SQLAlchemy on poold: products, orders, and no product sold that is not in stock.

poold start --detach
flask --app examples/flask_shop/app.py init
flask --app examples/flask_shop/app.py run
"""

import os
from decimal import Decimal
from typing import Any

from flask import Flask, abort, jsonify, request
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import CheckConstraint, ForeignKey, Numeric, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

# The one line that was another: postgresql+psycopg2://shop:secret@db1/shop.
URL = "postgresql+poold:///default"


class Base(DeclarativeBase):
    """The tables."""


db = SQLAlchemy(model_class=Base)


class Product(db.Model):
    """What is for sale."""

    sku: Mapped[str] = mapped_column(primary_key=True)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    stock: Mapped[int]

    __table_args__ = (CheckConstraint("stock >= 0", name="stock_is_there"),)


class Order(db.Model):
    """What one customer has bought at once."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    lines: Mapped[list["Line"]] = relationship(back_populates="order", order_by="Line.sku")


class Line(db.Model):
    """A product in an order, at the price of the day."""

    __tablename__ = "order_lines"

    order_id: Mapped[int] = mapped_column(ForeignKey(Order.id), primary_key=True)
    sku: Mapped[str] = mapped_column(ForeignKey(Product.sku), primary_key=True)
    number: Mapped[int]
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    order: Mapped[Order] = relationship(back_populates="lines")


def create_app(url: str | None = None) -> Flask:
    """The application; url is the database's."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = url or os.environ.get("SHOP_DATABASE", URL)
    db.init_app(app)

    @app.cli.command("init")
    def init() -> None:
        """Make the tables, and put something on the shelves."""
        db.create_all()
        if db.session.get(Product, "A1") is None:
            db.session.add_all(
                [
                    Product(sku="A1", price=Decimal("19.90"), stock=10),
                    Product(sku="B2", price=Decimal("5.00"), stock=1),
                ]
            )
            db.session.commit()

    @app.get("/products")
    def products() -> ResponseReturnValue:
        found = db.session.scalars(select(Product).order_by(Product.sku))
        return jsonify([{"sku": each.sku, "price": str(each.price), "stock": each.stock} for each in found])

    @app.post("/orders")
    def buy() -> ResponseReturnValue:
        """Sell what the request asks for, all of it or nothing."""
        wanted: dict[str, Any] = request.get_json()
        order = Order(customer=wanted["customer"])
        db.session.add(order)
        # In the order of their names: two orders never wait for each other.
        for sku, number in sorted(wanted["products"].items()):
            product = db.session.get(Product, sku, with_for_update=True)
            if product is None or product.stock < number:
                db.session.rollback()
                abort(409, f"there are not {number} of {sku}")
            product.stock -= number
            order.lines.append(Line(sku=sku, number=number, price=product.price))
        db.session.commit()
        return jsonify({"id": order.id}), 201

    @app.get("/orders/<int:number>")
    def order(number: int) -> ResponseReturnValue:
        found = db.get_or_404(Order, number)
        return jsonify(
            {
                "customer": found.customer,
                "total": str(sum(line.number * line.price for line in found.lines)),
                "lines": [{"sku": line.sku, "number": line.number} for line in found.lines],
            }
        )

    @app.errorhandler(OperationalError)
    def unavailable(error: OperationalError) -> ResponseReturnValue:
        """Tell a client that may try again that it may: poold knows whether anything was done."""
        is_retryable = getattr(error.orig, "retryable", False)
        return jsonify({"error": str(error.orig), "retry": is_retryable}), 503 if is_retryable else 500

    return app
