"""Test your own code against a local cloud: no key, no cost, the same answer every time.

    pip install "bailian-apps[emulator]" pytest
    python -m pytest examples/emulator_test.py

It prints "ok" where it is run as a script. It never calls the cloud.
"""

from bailian_apps import BailianApp, RateLimitError
from bailian_apps.emulator import Call, Emulator, Failure


def order(app: BailianApp, what: str) -> str:
    """The code under test: asks an app to order something."""
    try:
        return app.invoke(f"Order {what}", biz_params={"item": what}).text
    except RateLimitError:
        return "busy"


def shop(call: Call) -> str | Failure:
    """The app, as the test wants it."""
    if call.biz_params["item"] == "gold":
        return Failure(status=429, code="Throttling", message="Too many requests")
    return f"Ordered: {call.biz_params['item']}"


def test_order() -> None:
    with Emulator(apps={"shop": shop}) as cloud:
        app = BailianApp(app_id="shop", api_key="any", base_url=cloud.base_url, max_retries=0)
        assert order(app, "tea") == "Ordered: tea"
        assert order(app, "gold") == "busy"
        assert len(cloud.requests) == 2  # nothing was ordered twice


if __name__ == "__main__":
    test_order()
    print("ok")
