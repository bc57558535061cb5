"""What travels over HTTP: the shop's requests and answers, checked by pydantic."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from supplier import Offer

Id = Annotated[int, Field(gt=0, lt=2**63)]  # SQLite's integers end there


class View(BaseModel):
    """An answer that is read off an object of the database."""

    model_config = ConfigDict(from_attributes=True)


class ProductView(View):
    """A tea, as customers see it."""

    id: int
    name: str
    cents: int
    stock: int


class OrderView(View):
    """An order, as customers see it."""

    id: int
    product_id: int
    quantity: int
    status: str


class NewOrder(BaseModel):
    """What a customer sends."""

    product_id: Id
    quantity: Annotated[int, Field(gt=0, le=1_000_000)]


class Page(BaseModel):
    """Everything about one tea."""

    product: ProductView
    sold: int
    offer: Offer
    delivery_days: int


class Box(BaseModel):
    """A gift box."""

    teas: list[str]
    cents: int
