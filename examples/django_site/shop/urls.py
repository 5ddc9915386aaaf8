"""Where the shop answers."""

from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("customers/<int:customer>/orders", views.order),
    path("summary", views.summary),
    path("report.csv", views.report),
]
